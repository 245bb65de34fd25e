"""SPM against a plain trainer written out, on noise, v and flow predictions, and the properties of its paper."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from tests import tiny
from tests.edits.test_edits import ORIGIN
from tests.methods.plain_trainer import second_model
from tests.training.test_selectors import parameters
from unconcept.core import Request
from unconcept.core.errors import SettingsError
from unconcept.core.settings import build_settings
from unconcept.edits import GatedAdapter, GatedEdit
from unconcept.methods.spm import SPM, random_states
from unconcept.models import Conditioning
from unconcept.training import TrainableLowRank, TrainingSession, training_session
from unconcept.training.goals import TextEncodings
from unconcept.training.parameter_groups import select_parameters
from unconcept.training.trajectories import GuidedSampler, PartialSampling

CONTRACT_SETTINGS = {"iterations": 3, "max_denoising_steps": 2, "lr_warmup_steps": 0, "lr": 0.01}

EVERY = (*tiny.FAMILIES, *tiny.MMDITS)
REQUEST = Request(("dog", "red fox"), ("", "cat"))
QUICK = {"iterations": 4, "max_denoising_steps": 3, "lr_warmup_steps": 0, "lr": 1e-2}


def erased(view, request=REQUEST, **settings):
    losses = []
    with training_session(TrainingSession(lambda progress: losses.append(progress.loss * progress.done))):
        edit = SPM(**{**QUICK, **settings}).erase(view, request)
    return edit, [now - before for now, before in zip(losses, [0.0, *losses], strict=False)]


class Beside(nn.Module):
    """W + scale up down, in W's shape."""

    def __init__(self, up, down, scale) -> None:
        super().__init__()
        self.up, self.down, self.scale = nn.Parameter(up.clone()), nn.Parameter(down.clone()), scale

    def forward(self, w):
        return w + self.scale * (self.up @ self.down).view_as(w)


def plainly(view, settings, target, anchor):
    """A whole second model whose weights are reparametrised, each prediction asked for alone, AdamW by torch: changes
    and losses.
    """
    student = second_model(view)
    begun = (
        SPM(**{**QUICK, "iterations": 0, "rank": settings.rank, "alpha": settings.alpha})
        .erase(view, Request((target,), (anchor,)))
        .parts[0]
        .pairs
    )
    pairs = {}
    for full, (up, down) in begun.items():
        module = student.modules("denoiser").get_submodule(full.partition(".")[2].removesuffix(".weight"))
        pairs[full] = Beside(torch.zeros_like(up), down, settings.alpha / settings.rank)
        parametrize.register_parametrization(module, "weight", pairs[full], unsafe=True)
    rule = torch.optim.AdamW(
        [p for pair in pairs.values() for p in pair.parameters()], lr=settings.lr, weight_decay=settings.weight_decay
    )
    rng, losses = torch.Generator().manual_seed(settings.seed), []
    source = PartialSampling(
        GuidedSampler(student, TextEncodings.of(student), settings.max_denoising_steps, settings.start_guidance),
        (target,),
        lowest=1,
    )
    for step in range(settings.iterations):
        point = source.draw(step, 1, rng)
        given = [random_states(view.condition([target]), rng).conditioning for _ in range(settings.sampling_batch_size)]
        with torch.no_grad():
            p, n, *own = (view.denoise(point.x_t, point.t, text) for text in ([target], [anchor], *given))
        error = (
            (student.denoise(point.x_t, point.t, [target]) - (n - settings.guidance_scale * (p - n))).square().mean()
        )
        apart = [
            (student.denoise(point.x_t, point.t, a) - was).square().mean() for a, was in zip(given, own, strict=True)
        ]
        loss = error + settings.la_strength * sum(apart) / len(apart)
        for group in rule.param_groups:  # three cosines over the steps
            share = 3 * step / settings.iterations % 1.0
            group["lr"] = settings.lr * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * share)).item())
        rule.zero_grad()
        loss.backward()
        rule.step()
        losses.append(loss.item())
    return {full: (pair.scale * pair.up @ pair.down).detach() for full, pair in pairs.items()}, losses


@pytest.mark.parametrize(
    ("anchor", "rank", "family"),
    [
        # Both requests on sd1, one on SD3.
        pytest.param(*asked, family, marks=pytest.mark.slow if (asked, family) == (("", 1), "sd3") else ())
        for asked in (("", 1), ("cat", 2))
        for family in EVERY
    ],
)
def test_is_the_plain_trainer(anchor, rank, family) -> None:
    view, settings = (
        tiny.view(family),
        SPM(**QUICK, guidance_scale=1.5, la_strength=50.0, sampling_batch_size=2, rank=rank),
    )
    changes, plain = plainly(view, settings, "hat", anchor)
    edit, losses = erased(
        view, Request(("hat",), (anchor,)), guidance_scale=1.5, la_strength=50.0, sampling_batch_size=2, rank=rank
    )
    assert losses == pytest.approx(plain, rel=1e-4)
    pairs = edit.static().pairs
    assert pairs.keys() == changes.keys()
    apart = sum((up @ down - changes[name]).square().sum() for name, (up, down) in pairs.items())
    assert apart < 1e-5 * sum(change.square().sum() for change in changes.values())


@pytest.mark.parametrize("family", EVERY)
def test_first_loss_and_the_strength_at_which_nothing_changes(family) -> None:
    """(1 + g)^2 MSE(e_c, e_n) and no anchoring at the start; at g = -1 nothing is left to learn."""
    view = tiny.view(family)
    _, weak = erased(view, guidance_scale=0.0, iterations=1)
    _, strong = erased(view, guidance_scale=2.0, iterations=1)
    _, bare = erased(view, guidance_scale=2.0, iterations=1, action="erase")
    assert strong[0] == pytest.approx(9 * weak[0], rel=1e-4)
    assert strong[0] == pytest.approx(bare[0], rel=1e-6)
    _, losses = erased(view, guidance_scale=-1.0)
    assert losses == pytest.approx([0.0] * 4, abs=1e-9)


def test_one_adapter_for_all_or_one_for_each() -> None:
    view = tiny.view("sd1", torch.float32)
    one, each = erased(view)[0], erased(view, adapters="each")[0]
    assert [part.texts for part in one.parts] == [REQUEST.targets]
    assert [part.texts for part in each.parts] == [("dog",), ("red fox",)]
    alone = erased(view, Request(("dog",), ("",)))[0].parts[0].pairs
    assert all(torch.equal(up, each.parts[0].pairs[name][0]) for name, (up, _) in alone.items())
    assert all(
        down.shape[0] == 1 and up.any() for part in (*one.parts, *each.parts) for up, down in part.pairs.values()
    )


@pytest.mark.parametrize("family", EVERY)
@torch.no_grad()
def test_random_states_are_as_long_as_the_targets(family) -> None:
    view, rng = tiny.shared(family), torch.Generator().manual_seed(0)
    own = view.condition(["dog"])
    found = [random_states(own, rng).conditioning for _ in range(20)]
    lengths = [float(each.states.norm() / own.states.norm()) for each in found]
    assert 0.8 <= min(lengths) < 0.9 < 1.1 < max(lengths) <= 1.2
    assert all(bool((each.states[own.states == 0] == 0).all()) for each in found)
    if own.pooled is not None:
        assert len({float(each.pooled.norm() / own.pooled.norm()) for each in found}) == 20


def test_the_nearer_the_rarer() -> None:
    """Directions are taken with the probability 1 - cosine, at most 1: in one dimension the target's own never, in two
    the far half more often.
    """
    rng, own = torch.Generator().manual_seed(0), Conditioning(torch.ones(1, 1, 1))
    assert all(float(random_states(own, rng).conditioning.states) < 0 for _ in range(20))
    own = Conditioning(torch.tensor([[[1.0, 1.0]]]))
    against = sum(float(random_states(own, rng).conditioning.states.sum()) < 0 for _ in range(600)) / 600
    assert against == pytest.approx(torch.pi / (2 * torch.pi - 2), abs=0.06)


def test_calls_of_the_denoiser() -> None:
    """After k guided steps of the student: one call of the teacher (target, anchor, random states) and one of the
    student.
    """
    view = tiny.view("sd1", torch.float32)
    rows = []
    view.modules("denoiser").register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    erased(view, max_denoising_steps=2)
    assert rows == [2, 6, 5] * 4
    rows.clear()
    erased(view, max_denoising_steps=2, action="erase")
    assert rows == [2, 2, 1] * 4


@pytest.mark.slow
def test_anchoring_holds_what_is_not_the_target() -> None:
    """With it, predictions under random states move less for what the target's move."""
    view, rng = tiny.view("sd1", torch.float32), torch.Generator().manual_seed(5)
    x, t = torch.randn(4, 4, 8, 8, generator=rng), torch.full((4,), 500)
    stranger, target = (
        random_states(view.condition(["dog"]), rng).conditioning.rows(torch.zeros(4, dtype=torch.long)),
        view.condition(["dog"] * 4),
    )

    @torch.no_grad()
    def moved(edit, given):
        before = view.denoise(x, t, given)
        with edit.static().applied(view):
            return float((view.denoise(x, t, given) - before).square().mean())

    request, many = Request(("dog",), ("cat",)), {"iterations": 20, "lr": 5e-3, "max_denoising_steps": 2}
    free, held = (erased(view, request, **many, action=action)[0] for action in ("erase", "erase_with_la"))
    assert moved(held, stranger) / moved(held, target) < 0.5 * moved(free, stranger) / moved(free, target)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("iterations", -1),
        ("lr", -1.0),
        ("rank", 0),
        ("alpha", 0.0),
        ("guidance_scale", -1.5),
        ("max_denoising_steps", 1),
        ("la_strength", -1.0),
        ("sampling_batch_size", 0),
        ("lr_scheduler_num_cycles", 0),
        ("lr_warmup_steps", -1),
        ("action", "keep"),
        ("metric", "taste"),
        ("combine", "product"),
        ("adapters", "two"),
        ("floor", 1.0),
    ],
)
def test_settings_out_of_range(setting, value) -> None:
    with pytest.raises(SettingsError, match=setting):
        build_settings(SPM, {setting: value})


def test_a_file_is_of_the_cards_size(tmp_path) -> None:
    """1.696 MB of tensors for SD 1.4, and a header."""
    weights = {
        name: p
        for name, p in parameters("sd1").items()
        if name in select_parameters(parameters("sd1"), "transformer-maps")
    }
    maps = {name: SimpleNamespace(get_parameter=lambda leaf, p=p: p) for name, p in weights.items()}
    pairs = TrainableLowRank(SimpleNamespace(device=torch.device("cpu")), maps, 1, init="uniform").edit({}).pairs
    GatedEdit((GatedAdapter(("dog",), pairs),), origin=ORIGIN).save(tmp_path / "edit.safetensors")
    written = (tmp_path / "edit.safetensors").read_bytes()
    assert len(pairs) == 192
    assert len(written) - 8 - int.from_bytes(written[:8], "little") == 4 * 423_936 == 1_695_744


def test_random_states_must_share_out_evenly() -> None:
    with pytest.raises(SettingsError, match="multiple of batch_size 3"):
        build_settings(SPM, {"batch_size": 3})


def test_golden_losses() -> None:
    """A change of these numbers is a change of behaviour."""
    edit, losses = erased(tiny.view("sd1"), iterations=5)
    assert losses == pytest.approx(LOSSES, rel=1e-4)
    assert sum(float((up @ down).square().sum()) for up, down in edit.static().pairs.values()) ** 0.5 == pytest.approx(
        NORM, rel=1e-4
    )


LOSSES = [0.0016532312, 0.02188448, 0.011253046, 0.0038077843, 0.0029638214]
NORM = 0.18544496
