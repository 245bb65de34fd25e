"""RealEra's second stage against its two terms and a plain trainer written out: a reconstruction of ours."""

import copy
from dataclasses import replace

import pytest
import torch

from tests import tiny
from tests.killed import Killed
from unconcept.core import Request
from unconcept.core.errors import SettingsError
from unconcept.core.settings import build_settings
from unconcept.linalg.neighbours import in_neighbourhood, sample_beyond, sample_neighbours
from unconcept.methods.realera import RealEra, _StatesAround
from unconcept.models.hooks.modules import denoiser_parameters
from unconcept.models.text.state_rows import content_positions
from unconcept.training import TrainableLowRank, TrainingSession, training_session
from unconcept.training.goals import TextEncodings
from unconcept.training.trajectories import GuidedSampler, TrajectoryPool

SLOW = [pytest.param(family, marks=pytest.mark.slow) for family in (*tiny.FAMILIES[1:], *tiny.MMDITS)]
FAMILIES = ["sd1", *SLOW]
ADAPTED = {"cross": ("attn2.to_k", "attn2.to_v"), "joint": ("attn.add_k_proj", "attn.add_v_proj")}
REQUEST = Request(("dog",), ("cat",), ("sun", "car"))
QUICK = {"max_train_steps": 3, "ddim_steps": 3, "pool": 2, "lr": 1e-2, "rank": 2, "neighbours": 2, "beyond": 2}


def erased(view, request=REQUEST, **settings):
    losses = []
    with training_session(TrainingSession(lambda progress: losses.append(progress.loss * progress.done))):
        edit = RealEra(**{**QUICK, **settings}).erase(view, request)
    return edit, [now - before for now, before in zip(losses, [0.0, *losses], strict=False)]


def second_model(view, edit):
    """A whole other model with this edit in its weights."""
    other = copy.copy(view)
    other.checkpoint = copy.copy(view.checkpoint)
    other.checkpoint.pipeline = copy.copy(view.pipeline)
    part = view.spec.denoiser
    setattr(other.checkpoint.pipeline, part, copy.deepcopy(getattr(view.pipeline, part)))
    with torch.no_grad():
        for name, p in denoiser_parameters(other).items():
            if name in edit.names:
                p += edit.delta(name, p)
    return other


def drawn(view, method, kind, rng):
    """The target's states with rows of this kind, in each encoder by itself, and the pooled text."""
    given = view.condition(["dog"])

    def one(rows):
        if kind == "near":
            return sample_neighbours(rows, 1, (method.s1, method.s2), method.d1, rng)[:, 0]
        return sample_beyond(rows, 1, (method.b1, method.b2), method.d1, rng)[:, 0]

    states = given.states.detach().clone()
    for rows in map(list, content_positions(view, "dog")):
        used = states[0, rows[0]] != 0  # SD3 pads CLIP's states with zeros.
        widths = view.widths if bool(used.all()) else [int(used.sum())]
        states[0, rows, : sum(widths)] = torch.cat(
            [one(part) for part in states[0, rows][:, used].split(widths, -1)], -1
        )
    return replace(given, states=states, pooled=None if given.pooled is None else one(given.pooled.detach()))


def plainly(view, method):
    """The original, the first stage's model with W + up down by hand, a prediction at a time: adapter and losses."""
    student, rng = second_model(view, method.mapped(view, REQUEST)), torch.Generator().manual_seed(0)
    own, ends = dict(student.modules("denoiser").named_modules()), ADAPTED[view.spec.attention]
    start = {f"{view.spec.denoiser}.{name}.weight": own[name] for name in own if name.endswith(ends)}
    pairs = TrainableLowRank(view, start, method.rank, method.seed).pairs
    pairs = {name: [t.detach().double().requires_grad_() for t in pair] for name, pair in pairs.items()}
    params = [t for pair in pairs.values() for t in pair]
    rule, losses = torch.optim.Adam(params, lr=method.lr), []
    pool = TrajectoryPool(GuidedSampler(view, TextEncodings.of(view), 3, 3.0), ("dog",), 2, 3)
    for step in range(3):
        point = pool.draw(step, 1, rng)
        beyond = drawn(view, method, "beyond", rng)
        kept = REQUEST.retain[int(torch.randint(2, (), generator=rng))]
        near = drawn(view, method, "near", rng)
        handles = []
        for name, module in start.items():
            up, down = pairs[name]
            handles.append(
                module.register_forward_hook(lambda m, args, out, up=up, down=down: out + args[0] @ down.T @ up.T)
            )
        said = [student.denoise(point.x_t, point.t, text) for text in (near, beyond, [kept])]
        for each in handles:
            each.remove()
        with torch.no_grad():
            wanted = [view.denoise(point.x_t, point.t, text) for text in (["cat"], beyond, [kept])]
        errors = [(a - b).square().mean() for a, b in zip(said, wanted, strict=True)]
        loss = errors[0] + method.l4 * (errors[1] + errors[2]) / 2
        rule.zero_grad()
        loss.backward()
        rule.step()
        losses.append(loss.item())
    return {name: (up @ down).detach() for name, (up, down) in pairs.items()}, losses


@pytest.mark.parametrize("family", FAMILIES)
def test_is_the_plain_trainer(family) -> None:
    view, method = tiny.view(family), RealEra(**QUICK, l4=0.7)
    edit, losses = erased(view, l4=0.7)
    adapter, plain = plainly(view, method)
    assert losses == pytest.approx(plain, rel=1e-5)
    mapped = method.mapped(view, REQUEST)
    assert set(edit.names) == {*mapped.names, *adapter}
    for name, w in view.reference(edit.names).items():
        parts = [mapped.delta(name, w.detach())] if name in mapped.names else []
        parts += [adapter[name]] if name in adapter else []
        assert (edit.delta(name, w) - sum(parts)).norm() < 1e-4 * parts[-1].norm()


def test_it_begins_where_the_first_stage_ends() -> None:
    """With no rate the edit is the first stage's; without it the same bytes as before."""
    view = tiny.view("sd1")
    still, _ = erased(view, lr=0.0)
    first = RealEra(**{**QUICK, "max_train_steps": 0}).erase(view, REQUEST)
    assert first.hash == RealEra(**QUICK).mapped(view, REQUEST).hash
    assert all(torch.allclose(still.delta(n, w), first.delta(n, w), atol=1e-9) for n, w in view.text_maps().items())


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_states_keep_the_constraints_in_each_encoder(family) -> None:
    view, method, rng = tiny.shared(family), RealEra(**QUICK), torch.Generator().manual_seed(0)
    around, given = _StatesAround(method, view, TextEncodings.of(view)), view.condition(["dog"])
    (places,) = content_positions(view, "dog")
    assert len(places) == 3
    for states, is_near in ((around.near("dog", rng), True), (around.beyond("dog", rng), False)):
        changed = states.conditioning.states
        others = [i for i in range(changed.shape[1]) if i not in places]
        assert torch.equal(changed[0, others], given.states[0, others])
        for place in places:
            parts = zip(changed[0, place].split(view.widths), given.states[0, place].split(view.widths), strict=True)
            for part, own in parts:
                found = in_neighbourhood(part[None], own[None], method.s1 - 1e-6, method.d1 + 1e-6)
                assert bool(found) == is_near
        assert (states.conditioning.pooled is None) == (given.pooled is None)
        assert given.pooled is None or not torch.equal(states.conditioning.pooled, given.pooled)


def test_calls_of_the_denoiser() -> None:
    """Two calls of the pool's walk, then one of the original and one of the student, each under three texts."""
    view = tiny.view("sd1", torch.float32)
    rows = []
    view.modules("denoiser").register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    erased(view)
    assert rows == [2, 2, *[3, 3] * 3]


def test_killed_and_run_again_it_is_the_same(tmp_path) -> None:
    view = tiny.view("sd1", torch.float32)
    whole, _ = erased(view)

    def stop(progress):
        if progress.done == 2:
            raise Killed

    with pytest.raises(Killed), training_session(TrainingSession(stop, tmp_path, seconds=0.0)):
        RealEra(**QUICK).erase(view, REQUEST)
    with training_session(TrainingSession(folder=tmp_path)):
        assert RealEra(**QUICK).erase(view, REQUEST).hash == whole.hash


def test_every_attention_may_be_adapted_and_nothing_needs_to_be_retained() -> None:
    view = tiny.view("sd1", torch.float32)
    edit, losses = erased(view, Request(("dog",), ("cat",)), adapts="attn", max_train_steps=1)
    assert len(edit.names) > len(view.text_maps())
    assert losses[0] > 0


@pytest.mark.parametrize(
    ("setting", "value"),
    [("max_train_steps", -1), ("lr", -1.0), ("rank", 0), ("l4", -1.0), ("batch_size", 0), ("pool", 0), ("adapts", "x")],
)
def test_settings_out_of_range(setting, value) -> None:
    with pytest.raises(SettingsError, match=setting):
        build_settings(RealEra, {setting: value})


def test_golden_losses() -> None:
    """A change of these numbers is a change of behaviour."""
    view = tiny.view("sd1")
    edit, losses = erased(view, max_train_steps=5)
    norm = sum(float(edit.delta(n, w.detach()).square().sum()) for n, w in view.text_maps().items()) ** 0.5
    assert losses == pytest.approx(LOSSES, rel=1e-4)
    assert norm == pytest.approx(NORM, rel=1e-4)


LOSSES = [0.00045921234, 0.00025320193, 0.001434125, 0.00059142272, 0.0001675371]
NORM = 2.5080457
