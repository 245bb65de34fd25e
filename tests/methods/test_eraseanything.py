"""EraseAnything against a plain trainer written out, with full attention maps, and the properties of its paper."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from diffusers.models.embeddings import apply_rotary_emb
from torch.nn.utils import parametrize

from tests import tiny
from tests.methods.plain_trainer import second_model
from tests.methods.test_spm import Beside
from tests.models.test_picture_files import SIDE
from tests.models.test_picture_files import drawn as picture
from tests.training.test_selectors import parameters
from unconcept.core import Request
from unconcept.core.errors import NumericsError, RequestError, SettingsError
from unconcept.core.seeds import numbered_seed, picture_seeds
from unconcept.core.settings import build_settings
from unconcept.methods.eraseanything import EraseAnything, reverse_contrast
from unconcept.models import Conditioning
from unconcept.models.diffusion.sampler import Sampler
from unconcept.models.hooks.attention_maps import record_attention, text_attentions
from unconcept.models.model_view import PromptGuidance
from unconcept.models.text.state_rows import filled_states, word_states
from unconcept.training import TrainableLowRank, TrainingSession, training_session
from unconcept.training.images.training_images import generate_images, images_to_latents
from unconcept.training.parameter_groups import select_parameters

CONTRACT_SETTINGS = {"iterations": 4, "ddim_steps": 2, "picture_steps": 2, "lr": 0.01, "templates": ["{}"]}

REQUEST = Request(("dog",), ("hat",), ("cat", "sun"))
QUICK = {
    "iterations": 3,
    "ddim_steps": 3,
    "pictures": 1,
    "picture_steps": 2,
    "lr": 1e-2,
    "templates": ("a {}",),
    "shuffle_share": 0.0,
}
MORE = {
    "negative_guidance": 1.5,
    "lamb2": 0.7,
    "lamb3": 0.6,
    "lamb4": 0.5,
    "rank": 2,
    "alpha": 3.0,
    "tau": 0.3,
    "shuffle_share": 0.0,
}

# "a" and a word of three letters: T5 has a token before each word, CLIP none and one at the start of the text.
WORD = {"flux": [2, 3, 4, 5], "sd3": [2, 3, 4, 26, 27, 28, 29]}


def erased(view, request=REQUEST, **settings):
    losses = []
    with training_session(TrainingSession(lambda progress: losses.append(progress.loss * progress.done))):
        edit = EraseAnything(**{**QUICK, **settings}).erase(view, request)
    return edit, [now - before for now, before in zip(losses, [0.0, *losses], strict=False)]


def attending(view, x, t, prompts):
    """A prediction, and the whole attention (b, heads, l + p, l + p) of the last joint block, text first."""
    attn, seen = view.modules("denoiser").transformer_blocks[-1].attn, {}
    handle = attn.register_forward_pre_hook(lambda module, args, kwargs: seen.update(kwargs), with_kwargs=True)
    said = view.denoise(x, t, prompts)
    handle.remove()
    sides = []
    for of_text, of_picture, norm in (
        (attn.add_q_proj, attn.to_q, ("norm_added_q", "norm_q")),
        (attn.add_k_proj, attn.to_k, ("norm_added_k", "norm_k")),
    ):
        parts = []
        for rows, own in zip(
            (of_text(seen["encoder_hidden_states"]), of_picture(seen["hidden_states"])), norm, strict=True
        ):
            by_head = rows.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            parts.append(getattr(attn, own)(by_head))
        whole = torch.cat(parts, 2)
        rotary = seen.get("image_rotary_emb")
        sides.append(whole if rotary is None else apply_rotary_emb(whole, rotary))
    return said, torch.softmax(sides[0] @ sides[1].transpose(-1, -2) / math.sqrt(sides[0].shape[-1]), -1)


@torch.no_grad()
def trajectory(view, prompt, stop, seed):
    sampler = Sampler(view, 3)
    noise = torch.randn(1, *view.latent_shape, generator=torch.Generator().manual_seed(seed)).to(view.dtype)
    guidance = PromptGuidance(view.condition([prompt]))
    if view.family == "sd3":
        guidance = PromptGuidance(Conditioning.concatenate([view.condition([""]), guidance.texts]), 3.0)
    return sampler.denoise(noise, guidance, 0, stop), sampler.timesteps


def hung_pairs(student, own):
    """The pairs that the method begins with, each beside its weight in the model."""
    begun, pairs = replace(own, iterations=0).erase(student, REQUEST).pairs, {}
    for full, (up, down) in begun.items():
        module = student.modules("denoiser").get_submodule(full.partition(".")[2].removesuffix(".weight"))
        pairs[full] = Beside(torch.zeros_like(up), down, own.alpha / own.rank)
        parametrize.register_parametrization(module, "weight", pairs[full], unsafe=True)
    return pairs


def noised(z0, t, rng):
    """The latents between clean ones and noise, and the flow there."""
    noise = torch.randn(z0.shape, generator=rng).to(z0)
    return (1 - t / 1000).to(z0) * z0 + (t / 1000).to(z0) * noise, noise - z0


def plainly(view, settings, authors=False):
    """Steps that erase and keep in turns, by a call for each prompt, of a second model: changes and losses."""
    student, own = second_model(view), EraseAnything(**{**QUICK, **settings})
    pairs = hung_pairs(student, own)
    rule = torch.optim.AdamW([p for pair in pairs.values() for p in pair.parameters()], lr=own.lr, weight_decay=1e-5)
    teacher = student if authors else view
    images = generate_images(view, ["a dog"], picture_seeds(0, 1), 2, own.picture_guidance)
    z0 = images_to_latents(view, images).to(view.dtype)
    rng, losses, times = torch.Generator().manual_seed(0), [], trajectory(view, "a dog", 0, 0)[1]
    tokens, rows = WORD[view.family], slice(0 if authors else length(view), None)

    def erasing(k, t):
        seed = int(torch.randint(2**31, (1,), generator=rng))
        x, _ = trajectory(student, "a dog", 3 if authors else k, seed)
        with torch.no_grad():
            v_c, v_n = (teacher.denoise(x, t, [text]) for text in ("a dog", "a hat"))
        columns = attending(student, noised(z0, t, rng)[0], t, ["a dog"])[1][:, :, rows][..., tokens]
        size = columns.square().sum((0, 1)).sqrt()
        error = (student.denoise(x, t, ["a dog"]) - (v_n - own.negative_guidance * (v_c - v_n))).square().mean()
        return error + own.lamb2 * sum(size[:, i].mean() for i in range(len(tokens)))

    def keeping(k, t):
        z, flow = noised(z0, t, rng)
        others = []
        for prompt in ("a dog", "a cat", "a sun"):
            x, _ = trajectory(teacher, prompt, k, numbered_seed(0, 0))
            with torch.no_grad():
                others.append(attending(teacher, x, t, [prompt])[1][0, 0, rows][:, tokens].mean(1))
        said, looked = attending(student, z, t, ["a dog"])
        current = looked[0, 0, rows][:, tokens].mean(1)
        shares = [torch.exp(each @ current / (each.norm() * current.norm()) / own.tau) for each in others]
        return own.lamb3 * (said - flow).square().mean() + own.lamb4 * torch.log(shares[0] / sum(shares))

    for step in range(own.iterations):
        k = int(torch.randint(3, (), generator=torch.Generator().manual_seed(numbered_seed(0, step // 2))))
        loss = (keeping if step % 2 else erasing)(k, times[k].reshape(1))
        rule.zero_grad()
        loss.backward()
        rule.step()
        losses.append(loss.item())
    return {full: (pair.scale * pair.up @ pair.down).detach() for full, pair in pairs.items()}, losses


def length(view) -> int:
    return view.condition([""]).states.shape[1]


def require_plain(view, settings, authors=False):
    changes, plain = plainly(view, settings, authors)
    more = {"compat": "authors"} if authors else {}
    edit, losses = erased(view, **settings, **more)
    assert losses == pytest.approx(plain, rel=1e-4)
    assert edit.pairs.keys() == changes.keys()
    apart = sum((up @ down - changes[name]).square().sum() for name, (up, down) in edit.pairs.items())
    assert apart < 1e-4 * sum(change.square().sum() for change in changes.values())


def test_is_the_plain_trainer() -> None:
    require_plain(tiny.view("sd3"), MORE)


@pytest.mark.slow
def test_is_the_plain_trainer_on_flux() -> None:
    require_plain(tiny.view("flux"), MORE)


@pytest.mark.slow
def test_as_the_authors_train_the_edited_model_teaches_itself() -> None:
    """Their latents are finished, and attention is that of text and picture."""
    require_plain(tiny.view("sd3"), MORE, authors=True)


@pytest.mark.parametrize("family", tiny.MMDITS)
@torch.no_grad()
def test_columns_are_the_full_softmaxs(family) -> None:
    view = tiny.shared(family)
    x, t = torch.randn(1, *view.latent_shape, dtype=view.dtype, generator=torch.Generator().manual_seed(0)), 500.0
    place = dict(list(text_attentions(view).items())[-1:])
    assert WORD[family] == filled_states(view, "a {}", "dog") == word_states(view, "a dog", "dog")
    _, whole = attending(view, x, torch.tensor([t]), ["a dog"])
    assert torch.allclose(whole.sum(-1), torch.ones_like(whole[..., 0]))
    for with_text, begin in ((False, length(view)), (True, 0)):
        with record_attention(view, place, WORD[family], with_text) as kept:
            view.denoise(x, torch.tensor([t]), ["a dog"])
        (found,) = kept.values()
        assert torch.allclose(found[0], whole[:, :, begin:][..., WORD[family]], atol=1e-5)


def test_the_contrast() -> None:
    """-log(1 + K) where all cosines are alike, at most 0, and the less the less alike the synonym is."""
    rng = torch.Generator().manual_seed(0)
    current, others = torch.rand(12, generator=rng), torch.rand(4, 12, generator=rng)
    assert float(reverse_contrast(current, others[:1].repeat(4, 1), 0.07)) == pytest.approx(-math.log(4), rel=1e-5)
    assert float(reverse_contrast(current, others, 0.07)) <= 0
    orthogonal = others[0] - (others[0] @ current) / (current @ current) * current
    further = torch.cat([orthogonal[None], others[1:]])
    assert float(reverse_contrast(current, further, 0.07)) < float(reverse_contrast(current, others, 0.07))


@pytest.mark.slow
def test_first_loss_and_the_strength_at_which_nothing_changes() -> None:
    """(1 + eta)^2 MSE(v_c, v_n) at the start; at eta = -1 nothing is left to learn; at 0 it is the neutral sentence."""
    view, only = tiny.view("sd3"), {"lamb2": 0.0, "lamb3": 0.0, "lamb4": 0.0, "iterations": 1}
    weak, strong = (erased(view, **only, negative_guidance=eta)[1][0] for eta in (0.0, 2.0))
    assert strong == pytest.approx(9 * weak, rel=1e-4)
    assert erased(view, **only, negative_guidance=-1.0)[1] == pytest.approx([0.0], abs=1e-9)


def test_words_of_a_prompt() -> None:
    """Shuffled with the target in one piece; a synonym is a target of the same anchor, or one that is given."""
    from unconcept.methods.eraseanything import _Training

    view = tiny.shared("sd3")
    request = Request(("red fox", "vixen", "hat"), ("dog", "dog", "cap"), ("cat",))
    own = EraseAnything(**{**QUICK, "templates": ("b c {} d",), "shuffle_share": 0.5})
    texts = dict(zip(request.targets, request.anchors, strict=True))
    part = _Training(own, view, request, texts, ("cat",), torch.zeros(1), lambda: None)
    found = [part._wording("red fox", step) for step in range(40)]
    assert {neutral for neutral, _, _ in found} == {"b c dog d"}
    assert {word for _, _, word in found} == {"red fox", "vixen"}
    assert all(sorted(form.split()) == ["b", "c", "d", "{}"] for _, form, _ in found)
    assert 10 < sum(form == "b c {} d" for _, form, _ in found) < 32
    assert part._wording("hat", 3)[2] == "hat"


@pytest.mark.slow
def test_a_folder_of_pictures_is_what_is_kept(tmp_path) -> None:
    for i in range(2):
        picture(tmp_path / f"{i}.png", SIDE, SIDE, i)
    view = tiny.view("sd3", torch.float32)
    given, other = erased(view, images=str(tmp_path)), erased(view)
    assert given[0].hash != other[0].hash
    assert given[1] != other[1]


def test_what_is_refused() -> None:
    view = tiny.view("sd3", torch.float32)
    with pytest.raises(RequestError, match=r"eraseanything: no retained text to contrast .* lamb4 to 0"):
        erased(view, Request(("dog",), ("",)))
    assert erased(view, Request(("dog",), ("",)), lamb4=0.0)[0].pairs
    with pytest.raises(NumericsError, match=r"eraseanything, step \d+ of 20: the loss"):
        erased(view, iterations=20, lr=1e12, lamb4=0.0)
    with pytest.raises(SettingsError, match="are of a joint transformer"):
        select_parameters(parameters("sd1"), "text-qk")


def test_a_file_is_of_the_released_size() -> None:
    """76 tensors and 1,867,776 numbers for FLUX's 19 blocks, of which the configuration here has two."""
    weights = {n: p for n, p in parameters("flux").items() if n in select_parameters(parameters("flux"), "text-qk")}
    maps = {name: SimpleNamespace(get_parameter=lambda leaf, p=p: p) for name, p in weights.items()}
    pairs = TrainableLowRank(SimpleNamespace(device=torch.device("cpu")), maps, 8).edit({}).pairs
    assert len(pairs) * 2 * 19 // 2 == 76
    assert sum(up.numel() + down.numel() for up, down in pairs.values()) * 19 // 2 == 1_867_776


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("iterations", -1),
        ("rank", 0),
        ("lamb4", -0.1),
        ("tau", 0.0),
        ("irrelevant", 0),
        ("contrast_reuse", 0),
        ("shuffle_share", 1.5),
        ("negative_guidance", -1.5),
        ("templates", ["no place"]),
        ("compat", "theirs"),
    ],
)
def test_settings_out_of_range(setting, value) -> None:
    with pytest.raises(SettingsError, match=setting if setting != "templates" else "no place"):
        build_settings(EraseAnything, {setting: value})


def test_golden_losses() -> None:
    """A change of these numbers is a change of behaviour."""
    edit, losses = erased(tiny.view("sd3"), iterations=5)
    assert losses == pytest.approx(LOSSES, rel=1e-4)
    assert sum(float((up @ down).square().sum()) for up, down in edit.pairs.values()) ** 0.5 == pytest.approx(
        NORM, rel=1e-4
    )


LOSSES = [0.042498514, 0.07501068, 0.047122613, 0.064863406, 0.044598635]
NORM = 0.42435463
