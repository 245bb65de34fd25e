"""MACE's second and third stage: the loss on attention written out, its timesteps and tokens, and what the fusion makes
of the adapters.
"""

import pytest
import torch

from tests import tiny, toy_text
from tests.killed import Killed, dying
from unconcept.core import Request
from unconcept.core.errors import DataError, SettingsError
from unconcept.core.settings import build_settings
from unconcept.edits import DenseEdit, LowRankEdit
from unconcept.edits.fuse import fuse_edits
from unconcept.linalg.low_rank import changes_on_rows, fuse_pairs
from unconcept.linalg.moments import SecondMoments
from unconcept.linalg.ridge import ridge_system
from unconcept.methods.mace import MACE, _Target, attention_loss
from unconcept.models.diffusion.vae import encode_images
from unconcept.models.hooks.attention_maps import record_attention, text_attentions
from unconcept.models.hooks.cross_attention import cross_attentions
from unconcept.training import TrainingOptions, TrainingSession, loss_gradient, training_session
from unconcept.training.images.training_images import generate_images
from unconcept.training.token_search import normal_noise
from unconcept.training.trajectories import focused_timesteps

REQUEST = Request(("dog",), ("goat",))
QUICK = {
    "max_train_steps": 3,
    "pictures": 2,
    "picture_steps": 2,
    "learning_rate": 1e-2,
    "templates": ("a {}", "{} in fog"),
    "masks": "none",
}


def erased(view, request=REQUEST, **settings):
    losses = []
    with training_session(
        TrainingSession(lambda progress: losses.append((progress.loss * progress.done, progress.done)))
    ):
        edit = MACE(**{**QUICK, **settings}).erase(view, request)
    return edit, [total - (losses[i - 1][0] if done > 1 else 0.0) for i, (total, done) in enumerate(losses)]


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("use_pooler", [True, False])
def test_the_first_loss_written_out(family, use_pooler) -> None:
    """On top of the refinement: probabilities of every layer by hand, at the concept's letters and, if asked, at end
    tokens.
    """
    view = tiny.view(family)
    _, losses = erased(view, use_pooler=use_pooler, max_train_steps=1)
    method = MACE(**QUICK)
    noise = normal_noise(view.latent_shape, [torch.Generator().manual_seed(i) for i in range(2)])
    z = encode_images(view, view.sample(["a photo of the dog"] * 2, noise, 2, 7.5, "dpm"))
    rng = torch.Generator().manual_seed(0)
    i, form = (int(torch.randint(2, (), generator=rng)) for _ in range(2))
    t = focused_timesteps(1, rng, 1000)
    x_t = view.schedule.add_noise(z[[i]], torch.randn(1, *view.latent_shape, generator=rng).to(z), t)
    prompt = ("a dog", "dog in fog")[form]
    at = [2, 3, 4] if form == 0 else [1, 2, 3]
    ids = view.tokenizer([prompt]).padded()[0]
    at += [place for place, token in enumerate(ids) if token == view.tokenizer.end] if use_pooler else []
    found = []
    with torch.no_grad(), method.refined(view, REQUEST).applied(view):
        states = view.condition([prompt]).states
        modules = {module: [] for module in cross_attentions(view, view.text_maps())}
        hooks = [
            module.register_forward_pre_hook(lambda m, args, modules=modules: modules[m].append(args[0]))
            for module in modules
        ]
        view.denoise(x_t, t, [prompt])
        for hook in hooks:
            hook.remove()
        for module, (hidden,) in modules.items():
            q, k = module.to_q(hidden)[0], module.to_k(states)[0]
            width = q.shape[-1] // module.heads
            heads = [slice(h * width, (h + 1) * width) for h in range(module.heads)]
            maps = torch.stack([(q[:, h] @ k[:, h].T / width**0.5).softmax(-1)[:, at] for h in heads])
            found.append(maps.square().sum().sqrt())
    assert len(found) == len(view.text_maps()) / 2
    assert losses[0] == pytest.approx(sum(found).item(), rel=1e-5)


def test_the_loss_knows_masked_places_and_named_tokens_alone() -> None:
    view = tiny.shared("sd1")
    maps = view.text_maps()
    tokens = torch.zeros(toy_text.LENGTH, dtype=torch.bool)
    tokens[2:5] = True
    x = torch.randn(1, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with record_attention(view, text_attentions(view)) as seen:
        view.denoise(x, torch.tensor([300]), ["a dog"])
    kept = [found for (found,) in seen.values()]
    everywhere = torch.ones(1, 1, 8, 8, dtype=torch.bool)
    left = everywhere.clone()
    left[..., 4:] = False
    assert attention_loss(kept, ~everywhere, tokens) == 0
    assert attention_loss(kept, everywhere, torch.zeros_like(tokens)) == 0
    halves = [attention_loss([a], mask, tokens) ** 2 for a in kept for mask in (left, ~left)]
    whole = [attention_loss([a], everywhere, tokens) ** 2 for a in kept]
    assert torch.allclose(torch.stack(halves).view(-1, 2).sum(1), torch.stack(whole))
    assert torch.allclose(sum(whole_.sqrt() for whole_ in whole), attention_loss(kept, everywhere, tokens))
    keys_of_last = [name for name in maps if name.startswith(last_block(maps)) and "to_k" in name]
    values_of_last = [name.replace("to_k", "to_v") for name in keys_of_last]
    found = loss_gradient(
        attention_loss(kept, everywhere, tokens), [maps[name] for name in (*keys_of_last, *values_of_last)]
    )
    assert found[0].any()
    assert not found[-1].any()


def last_block(maps) -> str:
    """Of the attention that is asked last: no other comes after its values."""
    return max(name for name in maps if "up_blocks" in name).partition(".attn2")[0]


def test_attention_falls() -> None:
    _, losses = erased(tiny.view("sd1"), max_train_steps=40, learning_rate=0.1)
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def test_adapters_that_do_nothing_leave_what_the_preserved_rows_leave_of_the_refinement() -> None:
    """Without a step's width the third stage solves for the refinement, and the prior pulls it back to the model's own
    weights.
    """
    view = tiny.view("sd1")
    edit, _ = erased(view, learning_rate=0.0, fuse_preserve_scale=0.0)
    refined = MACE(**QUICK).refined(view, REQUEST)
    assert isinstance(edit, DenseEdit)
    assert all(
        torch.allclose(edit.delta(name, w), refined.delta(name, w), atol=1e-10) for name, w in view.text_maps().items()
    )


def test_concepts_without_common_directions_keep_their_own_adapter() -> None:
    """W* c = (W + dW_i) c on the span of each, as lambda -> 0."""
    view = tiny.shared("sdxl")
    rows = torch.linalg.qr(torch.randn(64, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))[0].T
    spans = rows[:3], rows[3:]
    rng = torch.Generator().manual_seed(1)
    draw = lambda *shape: torch.randn(*shape, dtype=torch.float64, generator=rng)  # noqa: E731
    pairs = [{name: (draw(len(w), 1), draw(1, 64)) for name, w in view.text_maps().items()} for _ in spans]
    moments = [SecondMoments.of(span) for span in spans]
    found = fuse_pairs(
        [changes_on_rows(pair, own) for pair, own in zip(pairs, moments, strict=True)],
        ridge_system(moments[0] + moments[1], SecondMoments.empty(64), 1e-10),
    )
    for name, (up, down) in found.items():
        for pair, span in zip(pairs, spans, strict=True):
            assert torch.allclose(span @ (up @ down).T, span @ (pair[name][0] @ pair[name][1]).T, atol=1e-6)


def test_what_is_fused(monkeypatch) -> None:
    """Each adapter on its own sentences, with the fusion's own weight of the prior, over the refinement."""
    view, seen = tiny.view("sd1"), []
    monkeypatch.setattr("unconcept.methods.mace.fuse_edits", lambda *given: seen.append(given) or fuse_edits(*given))
    request = Request(("dog", "fox"), ("goat", "bus"), ("cat",))
    method = MACE(**{**QUICK, "train_preserve_scale": 1.0, "fuse_preserve_scale": 3.0})
    method.erase(view, request)
    ((_, parts, lamb, preserve, under),) = seen
    assert [prompts for _, prompts in parts] == [["a dog", "dog in fog"], ["a fox", "fox in fog"]]
    assert all(isinstance(adapter, LowRankEdit) and set(adapter.names) == set(view.text_maps()) for adapter, _ in parts)
    assert not torch.equal(*(adapter.pairs[parts[0][0].names[0]][1] for adapter, _ in parts))
    assert lamb == method.lamb
    assert torch.allclose(preserve.gram, method.preserved(view, ("cat",), 3.0).gram)
    assert under.hash == method.refined(view, request).hash


def test_each_concept_has_its_adapter() -> None:
    view, names = tiny.view("sd1", torch.float32), []
    with training_session(TrainingSession(lambda progress: names.append(progress.name))):
        MACE(**QUICK).erase(view, Request(("dog", "fox"), ("goat", "bus"), ("cat",)))
    assert names == ["mace-1"] * 3 + ["mace-2"] * 3


def test_killed_within_the_second_adapter_and_gone_on_is_the_same_edit(tmp_path) -> None:
    view, request = tiny.view("sd1", torch.float32), Request(("dog", "fox"), ("goat", "bus"))
    whole, method, seen = MACE(**QUICK).erase(view, request), MACE(**QUICK), []

    with pytest.raises(Killed), training_session(TrainingSession(dying(2, "mace-2"), tmp_path, seconds=0.0)):
        method.erase(view, request)
    assert view.original_weights == {}
    with training_session(TrainingSession(lambda progress: seen.append((progress.name, progress.done)), tmp_path)):
        assert method.erase(view, request).hash == whole.hash
    assert seen == [("mace-2", 2), ("mace-2", 3)]


def test_recomputed_activations_change_nothing() -> None:
    view = tiny.view("sd1")
    plain, _ = erased(view)
    with training_session(TrainingSession(options=TrainingOptions(checkpointing=True))):
        close = MACE(**QUICK).erase(view, REQUEST)
    assert all(torch.allclose(close.deltas[name], delta, atol=1e-6) for name, delta in plain.deltas.items())


def test_no_steps_are_the_refinement_alone() -> None:
    view = tiny.view("sd1")
    assert MACE(max_train_steps=0).erase(view, REQUEST).hash == MACE().refined(view, REQUEST).hash
    assert view.original_weights == {}


@pytest.mark.parametrize("masks", ["attention", "foreground"])
def test_masks_leave_part_of_the_picture_alone(masks) -> None:
    view = tiny.view("sd1")
    shown = MACE(**{**QUICK, "masks": masks})._shown(view, _Target(0, "dog", ("a {}",), "object"))[1]
    assert shown.shape == (2, 1, 8, 8)
    assert shown.any((1, 2, 3)).all()
    assert not shown.all()
    assert MACE(**{**QUICK, "masks": masks})._shown(view, _Target(0, "dog", ("a {}",), "style"))[1].all()


def test_given_pictures_take_the_place_of_drawn_ones(tmp_path) -> None:
    from PIL import Image

    view = tiny.view("sd1")
    Image.new("RGB", (16, 16), "red").save(tmp_path / "one.png")
    half = Image.new("L", (16, 16))
    half.paste(255, (0, 0, 8, 16))
    half.save(tmp_path / "half.png")
    table = tmp_path / "own.csv"
    table.write_text("target,picture,mask\ndog,one.png,half.png\ndog,one.png,\nfox,one.png,\n")
    method = MACE(**{**QUICK, "pictures_file": str(table), "masks": "foreground"})
    latents, masks = method._shown(view, _Target(0, "dog", ("a {}",), "object"))
    assert len(latents) == 2
    assert masks[0, 0, 0].tolist() == [True] * 4 + [False] * 4
    assert masks[1].all()
    assert isinstance(method.erase(view, REQUEST), DenseEdit)
    with pytest.raises(DataError, match="no picture of 'hen'"):
        method.erase(view, Request(("hen",), ("goat",)))


def test_what_the_authors_script_makes_of_beta_and_of_pictures() -> None:
    view, target = tiny.view("sd1"), _Target(0, "dog", ("a {}",), "object")
    ours, theirs = (
        MACE(**{**QUICK, "train_preserve_scale": 0.3, "preserve_weight": 2.0, "compat": compat})
        for compat in ("", "authors")
    )
    request = Request(("dog",), ("goat",), ("cat",))
    as_theirs = MACE(**{**QUICK, "train_preserve_scale": 0.3**2, "preserve_weight": 2.0}).refined(view, request)
    assert torch.allclose(theirs.refined(view, request).y, as_theirs.y, atol=1e-12)
    assert not torch.allclose(ours.refined(view, request).y, as_theirs.y, atol=1e-6)
    pictures = generate_images(view, ["a photo of the dog"] * 2, [0, 1], 2, 7.5, "dpm")
    mean, spread = (torch.tensor(each)[:, None, None] for each in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    for method, given in ((ours, 2 * pictures - 1), (theirs, (pictures - mean) / spread)):
        vae = view.modules("vae")
        wanted = vae.encode(given.double()).latent_dist.mode() * vae.config.scaling_factor
        assert torch.allclose(method._shown(view, target)[0], wanted, atol=1e-6)


def test_a_mask_that_shows_no_object_is_refused(tmp_path) -> None:
    """All black, and white on so little that no cell of the latents is: the loss would be 0 whatever is learned."""
    from PIL import Image

    view = tiny.view("sd1", torch.float32)
    for name, pixels in {"picture": [], "black": [], "dot": [(1, 1)]}.items():
        image = Image.new("RGB", (16, 16))
        for place in pixels:
            image.putpixel(place, (255, 255, 255))
        image.save(tmp_path / f"{name}.png")
    for mask in ("black", "dot"):
        table = tmp_path / f"{mask}.csv"
        table.write_text(f"target,picture,mask\ndog,picture.png,\ndog,picture.png,{mask}.png\n")
        with pytest.raises(DataError, match=r"mask 2 of 'dog' is white in no cell of 8x8"):
            MACE(**{**QUICK, "pictures_file": str(table)}).erase(view, REQUEST)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("max_train_steps", -1),
        ("learning_rate", -1.0),
        ("rank", 0),
        ("pictures", 0),
        ("picture_steps", 0),
        ("fuse_preserve_scale", -1.0),
        ("masks", "sam"),
        ("pictures_file", "/etc/hosts"),
        ("picture_prompt", "a photo"),
    ],
)
def test_settings_out_of_range(setting, value) -> None:
    with pytest.raises(SettingsError, match="template" if setting == "picture_prompt" else setting):
        build_settings(MACE, {setting: value})


def test_golden_losses() -> None:
    """A change of these numbers is a change of behaviour."""
    edit, losses = erased(tiny.view("sd1"), max_train_steps=5, masks="attention")
    assert losses == pytest.approx(LOSSES, rel=1e-4)
    assert sum(float(delta.square().sum()) for delta in edit.deltas.values()) ** 0.5 == pytest.approx(NORM, rel=1e-4)


LOSSES = [4.8266747, 6.2809995, 4.7943593, 6.230469, 5.282185]
NORM = 1.2067923
