"""Concept Ablation: its loss written out, its rule for the start token, its pictures and prompts."""

import pytest
import torch

from tests import tiny
from unconcept.core import Request
from unconcept.core.errors import SettingsError
from unconcept.core.seeds import picture_seeds
from unconcept.core.settings import build_settings
from unconcept.methods import concept_ablation
from unconcept.methods.concept_ablation import ConceptAblation, masked_error, restrict_to_target_rows
from unconcept.models.diffusion.vae import decode_latents, encode_images
from unconcept.models.hooks.forward import detach_first_token
from unconcept.models.model_view import Conditioning
from unconcept.models.text.vocabulary import word_ids
from unconcept.training import TrainableWeights, TrainingSession, loss_gradient, training_session
from unconcept.training.images import anchor_images
from unconcept.training.images.anchor_images import AnchorImages, PromptPair, anchor_pairs
from unconcept.training.images.training_images import place_image
from unconcept.training.token_search import denoising_error, normal_noise
from unconcept.training.trajectories import GuidedSampler

CONTRACT_SETTINGS = {"iterations": 2, "pictures": 2, "picture_steps": 2, "batch_size": 2, "lr": 0.001}

EVERY = (*tiny.FAMILIES, *tiny.MMDITS)
REQUEST = Request(("dog",), ("cat",))
QUICK = {
    "iterations": 3,
    "pictures": 3,
    "picture_steps": 2,
    "batch_size": 2,
    "lr": 1e-3,
    "augment": False,
    "mirror": False,
    "templates": ("a {}",),
}


def erased(view, request=REQUEST, **settings):
    losses = []
    with training_session(TrainingSession(lambda progress: losses.append(progress.loss * progress.done))):
        edit = ConceptAblation(**{**QUICK, **settings}).erase(view, request)
    return edit, [now - before for now, before in zip(losses, [0.0, *losses], strict=False)]


def drawn(view, request, settings):
    pairs = anchor_pairs("concept-ablation", view, request, settings)
    return AnchorImages.drawn(view, pairs, settings, 3, needs_whole=not settings.augment)


def first_step(view):
    """Clean latents, noise, x_t (2, c, h, w) and t (2,) of a first step on three pictures
    of a cat, drawn the slow way.
    """
    noise = normal_noise(view.latent_shape, [torch.Generator().manual_seed(i) for i in range(3)])
    drawn = encode_images(view, view.sample(["a cat"] * 3, noise, 2, 6.0))
    rng = torch.Generator().manual_seed(0)
    which = torch.randint(3, (2,), generator=rng)
    for _ in range(2):
        torch.randint(1, (), generator=rng)
    t = torch.randint(len(view.schedule.alpha), (2,), generator=rng)
    z, noise = drawn[which], torch.randn(2, *view.latent_shape, generator=rng).to(drawn)
    return z, noise, view.schedule.add_noise(z, noise, t), t


@pytest.mark.parametrize("family", EVERY)
@pytest.mark.parametrize("target", ["model", "noise"])
def test_the_first_loss_written_out(family, target) -> None:
    """On pictures of the anchor: what is said under the target against what is said under the anchor, or against the
    noise; times channels.
    """
    view = tiny.view(family)
    _, losses = erased(view, target=target, iterations=1)
    z, noise, x_t, t = first_step(view)
    channels = view.latent_shape[0]
    with torch.no_grad():
        wanted = (
            view.denoise(x_t, t, ["a cat"] * 2) if target == "model" else view.schedule.training_target(z, noise, t)
        )
        assert losses[0] == pytest.approx(
            channels * (view.denoise(x_t, t, ["a dog"] * 2) - wanted).square().mean().item(), rel=1e-4
        )
        if target == "noise":
            plain = denoising_error(view, view.condition(["a dog"] * 2), z, noise, t).mean()
            assert losses[0] == pytest.approx(channels * plain.item(), rel=1e-4)


@pytest.mark.parametrize("target_model", ["student", "frozen"])
def test_a_target_that_reads_as_its_anchor_has_no_loss(target_model, monkeypatch) -> None:
    monkeypatch.setattr(concept_ablation, "anchor_pairs", lambda *given: [PromptPair("a cat", ("a cat",))])
    edit, losses = erased(tiny.view("sd1"), target_model=target_model, weight_decay=0.0)
    assert losses == [0.0] * 3
    assert not any(delta.any() for delta in edit.deltas.values())


def test_the_students_goal_drifts_and_the_frozen_one_does_not() -> None:
    view = tiny.view("sd1")
    _, student = erased(view, lr=0.05)
    _, frozen = erased(view, lr=0.05, target_model="frozen")
    assert student[0] == pytest.approx(frozen[0])
    assert student[1:] != pytest.approx(frozen[1:], rel=1e-3)


@pytest.mark.parametrize(("group", "tensors"), [("cross-attn", 8), ("attn", 40), ("full-weight", None)])
def test_the_group_alone_changes(group, tensors) -> None:
    edit, _ = erased(tiny.view("sd1", torch.float32), parameter_group=group, iterations=1)
    assert tensors is None or len(edit.names) == tensors


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("target_model", ["student", "frozen"])
def test_rows_of_the_targets_tokens_alone_change(family, target_model) -> None:
    """The first step written out: the gradient in the table, cut to the target's rows, then to its norm, then AdamW on
    those rows.
    """
    view, lr = tiny.view(family), 1e-2
    edit, losses = erased(view, parameter_group="embedding", target_model=target_model, iterations=1, lr=lr)
    parts = ["text_encoder", "text_encoder_2"][: len(edit.names)]
    assert [name.partition(".")[0] for name in edit.names] == parts
    assert len(parts) == (2 if family == "sdxl" else 1)
    tables = [view.modules(part).get_input_embeddings().weight for part in parts]
    ids = sorted(set(word_ids(view.tokenizer, "dog")))
    _, _, x_t, t = first_step(view)
    with torch.no_grad():
        wanted = view.denoise(x_t, t, view.condition(["a cat"] * 2))
    loss = view.latent_shape[0] * (view.denoise(x_t, t, view.condition(["a dog"] * 2)) - wanted).square().mean()
    assert losses[0] == pytest.approx(loss.item(), rel=1e-6)
    own = [g[ids] for g in torch.autograd.grad(loss, tables)]
    norm = sum(float(g.square().sum()) for g in own) ** 0.5
    own = [g * min(1.0, 1.0 / (norm + 1e-6)) for g in own]
    for name, table, g in zip(edit.names, tables, own, strict=True):
        moved = edit.deltas[name]
        assert torch.allclose(moved[ids], -lr * 1e-2 * table[ids] - lr * g / (g.abs() + 1e-8), rtol=1e-6, atol=1e-9)
        assert moved.any(1).nonzero()[:, 0].tolist() == ids


def test_rows_that_read_as_their_anchor_stay(monkeypatch) -> None:
    """Without a loss there is no gradient; the other rows stay to the bit however long
    the optimizer's decay goes on.
    """
    monkeypatch.setattr(concept_ablation, "anchor_pairs", lambda *given: [PromptPair("a cat", ("a cat",))])
    edit, losses = erased(tiny.view("sd1"), parameter_group="embedding", weight_decay=0.0)
    assert losses == [0.0] * 3
    assert not any(delta.any() for delta in edit.deltas.values())
    decayed, _ = erased(tiny.view("sd1"), parameter_group="embedding", weight_decay=0.5)
    (delta,) = decayed.deltas.values()
    assert delta.any(1).sum() == len(set("dog"))


def test_texts_are_read_anew_after_each_step() -> None:
    """An encoding kept from the first step would give the same gradient for ever, and reach no row."""
    view = tiny.view("sd1")
    _, losses = erased(
        view, parameter_group="embedding", iterations=30, lr=0.1, weight_decay=0.0, target_model="frozen"
    )
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])


@pytest.mark.parametrize("family", tiny.MMDITS)
def test_a_family_without_one_table_of_tokens_is_refused(family) -> None:
    with pytest.raises(
        SettingsError,
        match=(
            rf"^concept-ablation: {family} has no single token table for parameter_group embedding: choose cross-attn,"
            r" attn"
        ),
    ):
        erased(tiny.view(family), parameter_group="embedding")


def test_a_token_that_pads_stays() -> None:
    """SDXL's second encoder pads with "!": its row is in every prompt."""
    view = tiny.view("sdxl")
    pad = view.tokenizers[1].pad
    assert pad != view.tokenizers[0].pad
    trained = TrainableWeights(view, ("text_encoder.embeddings.token_embedding.weight",))
    (mask,) = restrict_to_target_rows(view, trained, ["dog!"]).masks
    assert mask.any(1).nonzero()[:, 0].tolist() == sorted(set(word_ids(view.tokenizer, "dog!")) - {pad})


def test_no_gradient_through_the_start_token() -> None:
    """A text of the start token alone teaches keys and values nothing; its reading is what it was."""
    view = tiny.view("sd1")
    maps = view.text_maps()
    x, t = torch.randn(1, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), torch.tensor([500])
    start = Conditioning(view.condition(["dog"]).states[:, :1].detach())
    modules = [view.modules("denoiser").get_submodule(n.partition(".")[2].removesuffix(".weight")) for n in maps]
    plain = view.denoise(x, t, start)
    assert any(g.any() for g in loss_gradient(plain.square().sum(), list(maps.values())))
    with detach_first_token(modules):
        cut = view.denoise(x, t, start)
        assert torch.equal(cut, plain)
        assert not any(g.any() for g in loss_gradient(cut.square().sum(), list(maps.values())))


def test_a_mask_of_ones_is_the_mean_times_channels() -> None:
    said, wanted = (torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    assert masked_error(said, wanted, torch.ones(2, 1, 8, 8)).item() == pytest.approx(
        4 * (said - wanted).square().mean().item(), rel=1e-5
    )
    mask = torch.zeros(2, 1, 8, 8)
    mask[:, :, 2:4, 1:5] = 1
    inside = (said - wanted)[:, :, 2:4, 1:5].square().mean().item()
    assert masked_error(said, wanted, mask).item() == pytest.approx(4 * inside, rel=1e-5)


@pytest.mark.parametrize("family", ["sd1", "flux"])
def test_the_prior_is_the_plain_diffusion_loss_on_whole_pictures(family) -> None:
    """The mean over all numbers, times its weight, whatever is done to the pictures of the target."""
    view = tiny.view(family)
    _, without = erased(view, iterations=1)
    _, both = erased(view, iterations=1, prior_loss_weight=0.5)
    z, _, _, _ = first_step(view)
    noise = normal_noise(view.latent_shape, [torch.Generator().manual_seed(i) for i in range(3)])
    drawn = encode_images(view, view.sample(["a cat"] * 3, noise, 2, 6.0))
    rng = torch.Generator().manual_seed(0)
    torch.randint(3, (2,), generator=rng)
    for _ in range(2):
        torch.randint(1, (), generator=rng)
    torch.randint(len(view.schedule.alpha), (2,), generator=rng)
    torch.randn(2, *view.latent_shape, generator=rng)
    z = drawn[torch.randint(3, (2,), generator=rng)]
    t = torch.randint(len(view.schedule.alpha), (2,), generator=rng)
    noise = torch.randn(2, *view.latent_shape, generator=rng).to(drawn)
    with torch.no_grad():
        prior = denoising_error(view, view.condition(["a cat"] * 2), z, noise, t).mean()
    assert both[0] - without[0] == pytest.approx(0.5 * prior.item(), rel=1e-4)


def test_words_for_the_size_belong_to_the_targets_prompt_alone() -> None:
    view = tiny.view("sd1")
    settings = ConceptAblation(**{**QUICK, "augment": True})
    data = drawn(view, REQUEST, settings)
    _, _, anchors, targets = data.batch(60, torch.Generator().manual_seed(0))
    assert set(anchors) == {"a cat"}
    sizes = {"a far away ", "very small ", "zoomed in ", "close up ", ""}
    assert {text.removesuffix("a dog") for text in targets} == {size for size in sizes if fits(view, size + "a dog")}


def fits(view, text) -> bool:
    return all(tokenizer.can_hold(text) for tokenizer in view.tokenizers)


def test_half_of_the_pictures_are_mirrored() -> None:
    view = tiny.view("sd1")
    settings = ConceptAblation(**{**QUICK, "mirror": True})
    data = drawn(view, REQUEST, settings)
    z, masks, _, _ = data.batch(40, torch.Generator().manual_seed(0))
    assert bool(masks.all())
    plain, turned = (encode_images(view, side) for side in (data.pictures, data.pictures.flip(-1)))
    found = [[torch.allclose(one, own, atol=1e-6) for own in (*plain, *turned)].index(True) // len(plain) for one in z]
    assert 10 < sum(found) < 30
    placed = [
        place_image(data.pictures[0], 8, torch.Generator().manual_seed(seed), mirror).picture
        for seed in range(8)
        for mirror in (False, True)
    ]
    turned_ones = [not torch.equal(*placed[i : i + 2]) for i in range(0, 16, 2)]
    assert True in turned_ones
    assert False in turned_ones


def test_pictures_of_harmful_anchors_have_the_target_as_negative_prompt() -> None:
    """Drawn step by step the slow way; a prompt of another kind is led away from the empty text."""
    view = tiny.view("sd1")
    settings = ConceptAblation(**QUICK)
    shown = {}
    for kind in ("object", "explicit"):
        request = Request(("dog",), ("cat",), kind=kind)
        shown[kind] = drawn(view, request, settings).pictures
    walk = GuidedSampler.of(view, 2, 6.0)
    start = walk.initial_latents(picture_seeds(0, 3))
    for kind, negative in (("object", ""), ("explicit", "dog")):
        latents = walk.denoise_steps(start, ["a cat"] * 3, 0, 2, [negative] * 3)
        assert torch.allclose(shown[kind], decode_latents(view, latents).float(), atol=1e-5)
    assert not torch.allclose(shown["object"], shown["explicit"], atol=1e-4)


def test_pictures_at_random_sizes() -> None:
    """A white picture says where it is; the mask lies within, short of the edges."""
    rng, seen = torch.Generator().manual_seed(0), set()
    for _ in range(60):
        found = place_image(torch.ones(3, 64, 64), 16, rng)
        assert found.picture.shape == (3, 64, 64)
        white = found.picture.mean(0) > 0.5
        cells = found.mask[0].repeat_interleave(4, 0).repeat_interleave(4, 1) > 0
        assert cells.any()
        assert white[cells].all()
        share = white.float().mean().item() ** 0.5
        seen.add(found.prefix)
        assert (found.prefix in ("a far away ", "very small ")) == (share < 0.6)
    assert seen == {"", "a far away ", "very small ", "zoomed in ", "close up "}
    assert int(place_image(torch.ones(3, 64, 64), 8, rng).mask.sum()) >= 1


@pytest.mark.parametrize(
    ("kind", "pairs"),
    [
        ("object", {"a dog in ink"}),
        ("style", {"a cat in ink, in the style of dog", "in dog's style, a cat in ink"}),
        ("explicit", {"dog, a cat in ink", "in dog style, a cat in ink", "a cat in ink, dog"}),
    ],
)
def test_captions_that_name_the_anchor(kind, pairs, tmp_path, monkeypatch) -> None:
    (tmp_path / "own.txt").write_text("a cat in ink\n")
    monkeypatch.setattr(anchor_images, "fits_context", lambda model, text: True)
    asked = ConceptAblation(anchor_prompts=str(tmp_path / "own.txt"))
    (pair,) = anchor_pairs("x", tiny.shared("sd1"), Request(("dog",), ("cat",), kind=kind), asked)
    assert pair.anchor == "a cat in ink"
    assert set(pair.targets) == pairs
    assert pair.negative == ("dog" if kind == "explicit" else "")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("iterations", -1),
        ("lr", -1.0),
        ("batch_size", 0),
        ("pictures", 0),
        ("parameter_group", "tokens"),
        ("templates", ("a dog",)),
        ("max_grad_norm", 0.0),
    ],
)
def test_settings_out_of_range(setting, value) -> None:
    with pytest.raises(SettingsError, match=r"template" if setting == "templates" else setting):
        build_settings(ConceptAblation, {setting: value})


def test_golden_losses() -> None:
    """A change of these numbers is a change of behaviour."""
    edit, losses = erased(tiny.view("sd1"), iterations=5, augment=True, prior_loss_weight=1.0)
    assert losses == pytest.approx(LOSSES, rel=1e-4)
    assert sum(float(delta.square().sum()) for delta in edit.deltas.values()) ** 0.5 == pytest.approx(NORM, rel=1e-4)


LOSSES = [1.2703744, 1.0943107, 1.0676065, 1.0435314, 0.9927672]
NORM = 0.1601029
