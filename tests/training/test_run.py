"""Trainings that are killed, told of, refused and stopped; the model is itself again whatever happens."""

import random
from functools import cache
from shutil import copytree

import pytest
import torch

from tests import tiny
from tests.fast_cases import fast_among, fast_ends
from tests.killed import Killed, dying
from unconcept.core import Request
from unconcept.core.errors import DataError, NumericsError, SettingsError
from unconcept.core.hashing import hash_tensors
from unconcept.methods.esd import ESD
from unconcept.methods.kscu import KSCU
from unconcept.methods.receler import Receler
from unconcept.methods.sculpting_memory import SculptingMemory
from unconcept.methods.spm import SPM
from unconcept.methods.trce import _RunningSum
from unconcept.models.hooks.modules import attention_linears, denoiser_modules, denoiser_parameters
from unconcept.training import (
    TrainableLowRank,
    TrainableWeights,
    TrainingOptions,
    TrainingPlan,
    TrainingSession,
    train,
    training_session,
)
from unconcept.training.forgetting.running_mean import RunningMean
from unconcept.training.forgetting.saliency import GradientSums
from unconcept.training.gradient_transforms import DynamicWeightMask, StartDistancePenalty, WeightMask
from unconcept.training.parameter_groups import select_parameters

REQUEST = Request(("dog", "hound"), ("cat", "cat"))
QUICK = {
    "esd": ESD(iterations=6, ddim_steps=2, pool=2, lr=1e-3),
    "esd, student": ESD(iterations=6, ddim_steps=2, sampling="student", lr=1e-3, erase_from="cat"),
    "kscu": KSCU(iterations=6, steps=3, start=0.34, loops=1, lr=1e-3, reworded_share=0.5),
    "sculpting-memory": SculptingMemory(
        num_epochs=3, pictures=4, warmup_steps=2, mask_update_interval=1, picture_steps=2, lr=1e-2, sequential=False
    ),
}


BESIDE = {  # methods whose adapters stand beside the model; Receler's searched tokens go on from step to step
    "receler": Receler(iterations=6, ddim_steps=2, advrs_iters=2, num_advrs_prompts=2, eraser_rank=2, lr=1e-2),
    "spm": SPM(iterations=6, max_denoising_steps=2, lr_warmup_steps=2, lr=1e-2),
}


EVERY = {**QUICK, **BESIDE}


@cache
def plain_edit(name: str):
    """What a method gives where nobody is told and nothing is kept."""
    return EVERY[name].erase(tiny.view("sd1", torch.float32), REQUEST)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The state of an ESD that came to its end; no test may touch it."""
    folder = tmp_path_factory.mktemp("finished")
    with training_session(TrainingSession(folder=folder)):
        QUICK["esd"].erase(tiny.view("sd1", torch.float32), REQUEST)
    return folder


@pytest.fixture
def begun(finished, tmp_path):
    """A copy of it."""
    return copytree(finished, tmp_path / "begun")


def weights(view) -> str:
    return hash_tensors(denoiser_parameters(view))


# Of kscu and sculpting-memory `test_regularisers.py` asks it with the fast tests.
@pytest.mark.parametrize("name", fast_among(EVERY, ("esd", "esd, student", *BESIDE)))
def test_killed_and_gone_on_is_the_same_edit(name, tmp_path) -> None:
    """At a random step, with the last state a step back.

    `tests/methods/test_killed.py` kills every method twenty times.
    """
    view, method, whole = tiny.view("sd1", torch.float32), EVERY[name], plain_edit(name)
    before = weights(view)
    kill, folder, seen = random.Random(name).randrange(1, 7), tmp_path, []
    with pytest.raises(Killed), training_session(TrainingSession(dying(kill), folder, seconds=0.0)):
        method.erase(view, REQUEST)
    assert weights(view) == before
    with training_session(TrainingSession(lambda progress: seen.append(progress.done), folder)):
        assert method.erase(view, REQUEST).hash == whole.hash
    assert seen == list(range(kill, 7))
    with training_session(
        TrainingSession(lambda progress: pytest.fail("a finished training is not trained again"), folder)
    ):
        assert method.erase(view, REQUEST).hash == whole.hash


def test_nothing_about_a_session_changes_an_edit(tmp_path) -> None:
    view, method = tiny.view("sd1", torch.float32), QUICK["esd"]
    plain, told = plain_edit("esd"), []
    with training_session(TrainingSession(told.append, tmp_path, 0.0)):
        assert method.erase(view, REQUEST).hash == plain.hash
    assert [progress.done for progress in told] == list(range(1, 7))
    assert all(progress.of == 6 and progress.seconds_left >= 0 and progress.name == "esd" for progress in told)
    with training_session(TrainingSession(options=TrainingOptions(checkpointing=True))):
        close = method.erase(view, REQUEST)
    assert all(torch.allclose(close.deltas[name], delta, atol=1e-5) for name, delta in plain.deltas.items())


@pytest.mark.parametrize("changed", ["settings", "request", "base", "text_encoder", "vae", "schedule", "rules"])
def test_a_state_of_another_training_is_refused(changed, begun) -> None:
    method = QUICK["esd"]
    other = ESD(iterations=6, ddim_steps=2, pool=2, lr=1e-3, start_guidance=2.0) if changed == "settings" else method
    asked = Request(("dog",), ("cat",)) if changed == "request" else REQUEST
    where = tiny.view("sd1", torch.float32, seed=1 if changed == "base" else 0)
    if changed in ("text_encoder", "vae"):
        with torch.no_grad():
            next(where.modules(changed).parameters()).mul_(1.5)
    if changed == "schedule":
        where.modules("scheduler").register_to_config(prediction_type="v_prediction")
    with (
        pytest.raises(DataError, match="other settings, another model or other data"),
        training_session(TrainingSession(folder=begun, about=changed == "rules" or None)),
    ):
        other.erase(where, asked)


def test_a_state_of_another_version_is_refused(begun, monkeypatch) -> None:
    monkeypatch.setattr("unconcept.training.trainer.source_hash", lambda *modules: "of other code")
    with (
        pytest.raises(DataError, match=r"esd\.safetensors was begun by another version of the library: delete it"),
        training_session(TrainingSession(folder=begun)),
    ):
        QUICK["esd"].erase(tiny.view("sd1", torch.float32), REQUEST)


def test_a_damaged_state_is_refused(tmp_path) -> None:
    (tmp_path / "esd.safetensors").write_bytes(b"nonsense")
    with pytest.raises(DataError, match="cannot be read"), training_session(TrainingSession(folder=tmp_path)):
        QUICK["esd"].erase(tiny.view("sd1", torch.float32), REQUEST)


def plain(view):
    return TrainableWeights(view, select_parameters(denoiser_parameters(view), "kv"))


def broken(trained, at, value):
    """A loss that is well until a step."""

    def loss(step, rng):
        total = sum(t.square().sum() for t in trained.tensors.values())
        return total * (value if step >= at else 1.0)

    return loss


def test_what_is_no_number_stops_and_the_last_good_state_stays(tmp_path) -> None:
    view = tiny.view("sd1", torch.float32)
    trained, before = plain(view), weights(view)
    with (
        pytest.raises(NumericsError, match=r"step 4 of 9.*nan.*after 4 steps is saved in"),
        training_session(TrainingSession(folder=tmp_path, seconds=0.0)),
    ):
        train(trained, broken(trained, 4, float("nan")), TrainingPlan(9, 1e-3), {}, name="lost")
    assert weights(view) == before
    from safetensors.torch import load_file

    assert all(
        torch.isfinite(t).all() for t in load_file(tmp_path / "lost.safetensors").values() if t.is_floating_point()
    )


class Counted:
    """Moves with every call of the loss, the one that breaks too."""

    def __init__(self) -> None:
        self.calls = torch.zeros(1)

    def state(self):
        return {"calls": self.calls}

    def restore(self, state) -> None:
        self.calls = state["calls"]


def shaken(trained, counted, value):
    """A loss out of the generator and of something that changes in place, which is `value` once, at step 4."""

    def loss(step, rng):
        counted.calls += 1
        total = sum(
            (t - torch.rand((), generator=rng) - counted.calls / 9).square().sum() for t in trained.tensors.values()
        )
        return total * (value if step == 4 else 1.0)

    return loss


def test_what_is_no_number_before_a_state_was_due_leaves_one(tmp_path) -> None:
    """That of the last good step: the same training ends as if it had never been stopped."""
    view = tiny.view("sd1", torch.float32)
    found = []
    for value, folder in ((1.0, "whole"), (float("nan"), "lost"), (1.0, "lost")):
        trained, counted = plain(view), Counted()
        with training_session(TrainingSession(folder=tmp_path / folder)):
            if value == value:
                found.append(
                    (
                        train(trained, shaken(trained, counted, value), TrainingPlan(9, 1e-3), {}, [counted], "well"),
                        trained.edit({}).hash,
                    )
                )
                continue
            with pytest.raises(
                NumericsError,
                match=r"step 4 of 9.*after 4 steps is saved in .*: delete it to begin anew with other settings",
            ):
                train(trained, shaken(trained, counted, value), TrainingPlan(9, 1e-3), {}, [counted], "well")
    assert found[0] == found[1]


def test_of_the_start_no_state_is_left(tmp_path) -> None:
    trained = plain(tiny.view("sd1", torch.float32))
    with (
        pytest.raises(NumericsError, match=r"nan: use a smaller lr or a lower guidance, or float32$"),
        training_session(TrainingSession(folder=tmp_path)),
    ):
        train(trained, broken(trained, 0, float("nan")), TrainingPlan(9, 1e-3), {}, name="lost")
    assert not list(tmp_path.iterdir())


def test_a_loss_that_runs_away_stops(tmp_path) -> None:
    """What is left then is what was kept before: the tensors have moved on."""
    trained = plain(tiny.view("sd1", torch.float32))
    with (
        pytest.raises(NumericsError, match=r"diverged.*smaller lr$"),
        training_session(TrainingSession(folder=tmp_path)),
    ):
        train(trained, broken(trained, 25, 1e6), TrainingPlan(60, 1e-3), {})


def test_no_steps_no_change() -> None:
    view = tiny.view("sd1", torch.float32)
    edit = ESD(iterations=0, ddim_steps=2).erase(view, REQUEST)
    assert not any(delta.any() for delta in edit.deltas.values())


@pytest.mark.parametrize("name", fast_ends(QUICK))
def test_a_sessions_rules_serve_every_method(name) -> None:
    """A strong pull back, and a mask of one entry a tensor, given to methods that know of neither."""
    view = tiny.view("sd1", torch.float32)

    def size(edit):
        return sum(float(d.square().sum()) for d in edit.deltas.values())

    def one_entry(start):
        own = [t.detach().clone() for t in start.tensors.values()]
        masks = [torch.zeros_like(t, dtype=torch.bool) for t in own]
        for mask in masks:
            mask.view(-1)[0] = True
        return [WeightMask(own, masks)]

    def pull(start):
        return [StartDistancePenalty([t.detach().clone() for t in start.tensors.values()], 1e9)]

    free = plain_edit(name)
    with training_session(TrainingSession(transforms=pull)):
        assert size(QUICK[name].erase(view, REQUEST)) < 0.5 * size(free)
    with training_session(TrainingSession(transforms=one_entry)):
        assert all(int((d != 0).sum()) <= 1 for d in QUICK[name].erase(view, REQUEST).deltas.values())


@pytest.mark.parametrize("kind", ["weights", "low rank", "low rank with convolutions"])
def test_off_is_the_model_before_and_on_is_what_is_trained(kind) -> None:
    view = tiny.view("sd1", torch.float32)
    x, t = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([400])
    given = view.condition(["dog"])

    def said():
        with torch.no_grad():
            return view.denoise(x, t, given)

    first = said()
    maps = (
        attention_linears(view)
        if kind == "low rank"
        else denoiser_modules(view, select_parameters(denoiser_parameters(view), "transformer-maps"))
    )
    trained = plain(view) if kind == "weights" else TrainableLowRank(view, maps, 2, init="uniform", scale=0.5)
    with trained.student():
        assert torch.allclose(said(), first, atol=1e-6)
        with torch.no_grad():
            for tensor in trained.tensors.values():
                tensor.add_(0.3 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1)))
        moved = said()
        assert not torch.allclose(moved, first, atol=1e-4)
        with trained.teacher():
            assert torch.equal(said(), first)
        assert torch.equal(said(), moved)
        assert [name for name, p in view.modules("denoiser").named_parameters() if p.requires_grad] == [
            name.partition(".")[2] for name in trained.tensors if kind == "weights"
        ]
    assert torch.equal(said(), first)
    with trained.edit({}).applied(view):
        assert torch.allclose(said(), moved, atol=1e-5)
    assert all(p.requires_grad for p in view.modules("denoiser").parameters())


@pytest.mark.parametrize(
    "kept",
    [DynamicWeightMask(0.5, 9, 9, 0.5, 1), RunningMean(0.5), GradientSums(), _RunningSum()],
    ids=lambda k: type(k),
)
def test_a_state_that_was_saved_goes_on_where_the_gradients_are(kept) -> None:
    """A state is read onto the CPU, whatever device the training is on; here there is none but "meta" beside it."""
    kept.gradient(1, [torch.ones(2)], [torch.ones(2)])
    kept.restore(kept.state())
    kept.gradient(2, [torch.ones(2, device="meta")], [torch.ones(2, device="meta")])
    assert {tensor.device.type for tensor in kept.state().values()} == {"meta"}


def test_narrow_weights_are_refused() -> None:
    with pytest.raises(SettingsError, match="float32"):
        plain(tiny.view("sd1", torch.bfloat16))
