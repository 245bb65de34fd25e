"""Receler against a plain trainer written out, on noise, v and flow predictions, and the properties of its paper."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests import tiny
from unconcept.core import Request
from unconcept.core.errors import SettingsError
from unconcept.core.settings import build_settings
from unconcept.methods.receler import Receler
from unconcept.models import Conditioning
from unconcept.models.hooks.attention_maps import record_attention, text_attentions
from unconcept.models.hooks.forward import change_outputs
from unconcept.models.hooks.modules import denoiser_modules
from unconcept.training import TrainableErasers, TrainingSession, training_session
from unconcept.training.goals import TextEncodings
from unconcept.training.trajectories import GuidedSampler, PartialSampling

CONTRACT_SETTINGS = {
    "iterations": 2,
    "ddim_steps": 2,
    "advrs_iters": 2,
    "eraser_rank": 4,
    "num_advrs_prompts": 2,
    "lr": 0.01,
}

EVERY = (*tiny.FAMILIES, *tiny.MMDITS)
REQUEST = Request(("dog", "fox"), ("", ""))
QUICK = {"iterations": 3, "ddim_steps": 3, "advrs_iters": 3, "eraser_rank": 4, "num_advrs_prompts": 2, "lr": 1e-2}
# "dog" is three letters, and T5 begins at once.
BEHIND = {"sd1": [4, 5], "sd2": [4, 5], "sdxl": [4, 5], "sd3": [4, 5, 28, 29], "flux": [4, 5]}
OWN = {"sd1": [1, 2, 3], "sd2": [1, 2, 3], "sdxl": [1, 2, 3], "sd3": [1, 2, 3, 24, 25, 26, 27], "flux": [0, 1, 2, 3]}


def erased(view, request=REQUEST, **settings):
    losses = []
    with training_session(TrainingSession(lambda progress: losses.append(progress.loss * progress.done))):
        edit = Receler(**{**QUICK, **settings}).erase(view, request)
    return edit, [now - before for now, before in zip(losses, [0.0, *losses], strict=False)]


def torch_layers(eraser):
    """The eraser as torch's own layers, in float64."""
    r, d = eraser.down.shape
    net = nn.Sequential(nn.Linear(d, r), nn.GELU(), nn.Linear(r, d))
    with torch.no_grad():
        for own, part in zip(net.parameters(), vars(eraser).values(), strict=True):
            own.copy_(part)
    return net.double()


def looked_at(view, seen, threshold):
    """Where the finest maps look at the target's own tokens, as a mask."""
    finest_maps = [found[0] for found in seen.values() if found[0].shape[2] == finest(view)]
    mean = torch.stack([found[0, :, :, OWN[view.family]].mean((0, 2)) for found in finest_maps]).mean(0)
    return ((mean - mean.min()) / (mean.max() - mean.min()) >= threshold).double()


def begun_soft(view, seed, width):
    rng = torch.Generator().manual_seed(seed * 1_000_003)
    return torch.rand(1, len(BEHIND[view.family]), width, generator=rng).requires_grad_()


@torch.no_grad()
def unedited(view, places, x, t, texts):
    """The predictions under two texts, and what the attention sees under the first."""
    with record_attention(view, places) as seen:
        first = view.denoise(x, t, texts[0])
    return first, view.denoise(x, t, texts[1]), seen


def laid(view, given, rows):
    """What is given, with these rows behind the target's tokens."""
    states = given.states.detach().clone()
    for i, at in enumerate(BEHIND[view.family]):
        states[:, at] = rows[:, i]
    return Conditioning(states, given.pooled, given.time_ids)


def spilled(added, mask):
    """What each eraser adds outside of the mask, in the mean."""
    side, total = round(len(mask) ** 0.5), 0.0
    for out in added:
        own = round(out.shape[1] ** 0.5)
        kept = F.interpolate(mask.view(1, 1, side, side), (own, own), mode="nearest").flatten()
        outside = (out[0] * (1 - kept)[:, None]).square().mean(1).sum() / ((1 - kept).sum() + 1e-9)
        total = total + outside / len(added)
    return total


def plainly(view, settings, target):
    """Erasers of torch's own layers, hung on by hand, they and soft tokens by torch's Adam: erasers and losses."""
    places = text_attentions(view)
    maps = denoiser_modules(view, [f"{name}.to_out.0.weight" for name in places])
    begun = TrainableErasers(view, maps, settings.eraser_rank, settings.seed).erasers
    nets, added, live = {name: torch_layers(eraser) for name, eraser in begun.items()}, {}, [True]

    def change(name, out):
        if not live[0]:
            return out
        added[name] = nets[name](out)
        return out + added[name]

    rng, losses = torch.Generator().manual_seed(settings.seed), []
    with torch.no_grad():
        given, null = view.condition([target]), view.condition([""])
    soft = begun_soft(view, settings.seed, given.states.shape[-1])
    rule = torch.optim.Adam([p for net in nets.values() for p in net.parameters()], lr=settings.lr)
    searching = torch.optim.Adam([soft], lr=settings.advrs_lr, weight_decay=settings.advrs_weight_decay)

    source = PartialSampling(
        GuidedSampler(view, TextEncodings.of(view), settings.ddim_steps, settings.start_guidance), (target,), lowest=1
    )
    with change_outputs(maps, change):
        for step in range(settings.iterations):
            point = source.draw(step, 1, rng)
            x, t = point.x_t, point.t
            live[0] = False
            e_c, e_0, seen = unedited(view, places, x, t, (given, null))
            live[0] = True
            mask = looked_at(view, seen, settings.mask_thres)
            for _ in range(settings.advrs_iters):
                before = soft.detach().clone()
                searching.zero_grad()
                (view.denoise(x, t, laid(view, given, soft)) - e_c).square().mean().backward()
                searching.step()
            wanted = e_0 - settings.negative_guidance * (e_c - e_0)
            error = (view.denoise(x, t, laid(view, given, before)) - wanted).square().mean()
            loss = error + settings.concept_reg_weight * spilled(added.values(), mask)
            rule.zero_grad()
            loss.backward()
            rule.step()
            losses.append(loss.item())
    return {name: [p.detach() for p in net.parameters()] for name, net in nets.items()}, losses


def finest(view) -> int:
    """Of the finest attention: the nearest to 16 a side on latents of 8."""
    return 64 if view.family in tiny.FAMILIES else 16


@pytest.mark.parametrize("family", EVERY)
def test_is_the_plain_trainer(family) -> None:
    more = {"negative_guidance": 1.5, "mask_thres": 0.4, "concept_reg_weight": 2.0}
    view = tiny.view(family)
    for parameter in view.modules("denoiser").parameters():
        parameter.requires_grad_(False)
    erasers, plain = plainly(view, Receler(**QUICK, **more), "dog")
    edit, losses = erased(view, Request(("dog",), ("",)), **more)
    assert losses == pytest.approx(plain, rel=1e-3)
    pairs = [
        (t, theirs)
        for name, eraser in edit.erasers.items()
        for t, theirs in zip(vars(eraser).values(), erasers[name], strict=True)
    ]
    assert sum((t - theirs).square().sum() for t, theirs in pairs) < 1e-4 * sum(
        theirs.square().sum() for _, theirs in pairs
    )


@pytest.mark.parametrize("family", EVERY)
def test_first_loss_and_the_strength_at_which_nothing_changes(family) -> None:
    """Without a search (1 + eta)^2 MSE(e_c, e_0) at the start and nothing outside of the mask; at eta = -1 nothing is
    left to learn.
    """
    view = tiny.view(family)
    _, weak = erased(view, negative_guidance=0.0, iterations=1, advrs_iters=0)
    _, strong = erased(view, negative_guidance=2.0, iterations=1, advrs_iters=0, concept_reg_weight=9.0)
    assert strong[0] == pytest.approx(9 * weak[0], rel=1e-4)
    _, losses = erased(view, negative_guidance=-1.0, advrs_iters=0)
    assert losses == pytest.approx([0.0] * 3, abs=1e-9)


def test_the_search_brings_the_target_back() -> None:
    """On an edited model the soft tokens lower their loss, and each gradient reaches its own side alone."""
    from unconcept.methods.receler import _Search

    view = tiny.view("sd1")
    edit, _ = erased(view, Request(("dog",), ("",)), iterations=15, advrs_iters=0, ddim_steps=2)
    x, t, given = (
        torch.randn(1, 4, 8, 8, dtype=view.dtype, generator=torch.Generator().manual_seed(0)),
        torch.tensor([500]),
        view.condition(["dog"]),
    )
    given = Conditioning(given.states.detach())
    with torch.no_grad():
        said = view.denoise(x, t, given)
    search = _Search(
        view, given, "dog", Receler(**{**QUICK, "advrs_iters": 20, "advrs_lr": 0.01, "advrs_weight_decay": 0.0}), 0
    )
    with edit.applied(view):
        laid = search.found(x, t, said)
    assert search.descent.losses[-1] < search.descent.losses[0]
    assert len(search.descent.losses) == 20
    assert not laid.states.requires_grad
    changed = [i for i in range(24) if not torch.equal(laid.states[0, i], given.states[0, i])]
    assert changed == BEHIND["sd1"]
    assert all(tensor.grad is None for tensor in edit.tensors().values())


def test_a_search_goes_on_where_it_was_left() -> None:
    """Soft tokens of one target persist over iterations: two short searches are one long one on the same latents."""
    view = tiny.view("sd1")
    once, _ = erased(view, iterations=1, advrs_iters=3, lr=0.0)
    again, losses = erased(view, iterations=3, advrs_iters=3, lr=0.0)
    assert all(torch.equal(a, b) for a, b in zip(once.tensors().values(), again.tensors().values(), strict=True))
    _, fresh = erased(view, iterations=3, advrs_iters=1, lr=0.0)
    assert losses[1:] != pytest.approx(fresh[1:], rel=1e-6)


def test_as_the_authors_train_no_soft_token_is_read() -> None:
    view = tiny.view("sd1")
    ours, theirs, without = (erased(view, **own) for own in ({}, {"compat": "authors"}, {"advrs_iters": 0}))
    assert theirs[1] == without[1] != ours[1]
    assert all(
        torch.equal(mine, other)
        for mine, other in zip(theirs[0].tensors().values(), without[0].tensors().values(), strict=True)
    )


def test_calls_of_the_denoiser() -> None:
    """After a guided step of the student: the teacher's two predictions, the search, and the erasers' own."""
    view = tiny.view("sd1", torch.float32)
    rows = []
    view.modules("denoiser").register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    erased(view, ddim_steps=2, advrs_iters=3)
    assert rows == [2, 2, 1, 1, 1, 1] * 3
    rows.clear()
    erased(view, ddim_steps=2, advrs_iters=0, batch_size=2)
    assert rows == [4, 4, 2] * 3


def test_a_heavier_mask_spills_less() -> None:
    """With all of the picture outside of the mask, what erasers add shrinks as its weight grows."""
    view = tiny.view("sd1", torch.float32)

    def size(weight):
        edit, _ = erased(view, iterations=20, advrs_iters=0, ddim_steps=2, mask_thres=1.0, concept_reg_weight=weight)
        return sum(float(eraser.up.square().sum()) for eraser in edit.erasers.values())

    assert size(1000.0) < 0.5 * size(0.0)


def test_a_target_that_fills_the_encoder_has_its_end_token_overwritten() -> None:
    view, request = tiny.view("sd1", torch.float32), Request(("abcdefghijklmnopqrstuv",), ("",))
    edit, losses = erased(view, request, num_advrs_prompts=1)
    assert len(losses) == 3
    assert any(eraser.up.any() for eraser in edit.erasers.values())
    with pytest.raises(
        SettingsError, match=r"num_advrs_prompts 2: the text encoder has fewer rows after 'abc.*': lower it"
    ):
        erased(view, request)
    erased(view, request, advrs_iters=0, iterations=1)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("iterations", -1),
        ("lr", -1.0),
        ("eraser_rank", 0),
        ("negative_guidance", -1.5),
        ("ddim_steps", 1),
        ("concept_reg_weight", -0.1),
        ("mask_thres", 1.5),
        ("mask_side", 0),
        ("advrs_iters", -1),
        ("num_advrs_prompts", 0),
        ("advrs_weight_decay", -1.0),
        ("batch_size", 0),
    ],
)
def test_settings_out_of_range(setting, value) -> None:
    with pytest.raises(SettingsError, match=setting):
        build_settings(Receler, {setting: value})


def test_golden_losses() -> None:
    """A change of these numbers is a change of behaviour."""
    edit, losses = erased(tiny.view("sd1"), iterations=5)
    assert losses == pytest.approx(LOSSES, rel=1e-4)
    assert sum(float(eraser.up.square().sum()) for eraser in edit.erasers.values()) ** 0.5 == pytest.approx(
        NORM, rel=1e-4
    )


LOSSES = [0.0016803028, 0.001041875, 0.0009000898, 0.0011337831, 0.0016789694]
NORM = 0.33339471
