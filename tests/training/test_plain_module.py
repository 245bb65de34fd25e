"""A classifier is trained by the same engine: kept, resumed, regularised, and left as it was."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.killed import Killed, dying
from unconcept.core import Request
from unconcept.core.errors import DataError, EditError, ModelError, NumericsError, SettingsError
from unconcept.core.hashing import hash_tensors
from unconcept.models.module_view import ModuleView
from unconcept.training import (
    Regularisers,
    TrainableLowRank,
    TrainableWeights,
    TrainingOptions,
    TrainingPlan,
    TrainingSession,
    train,
    training_session,
    use_regularisers,
)
from unconcept.training.trainables import with_pristine_weights


def classifier(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return ModuleView(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)))


def batch():
    rng = torch.Generator().manual_seed(1)
    return torch.randn(12, 6, generator=rng), torch.arange(12) % 3


def weights_of(view):
    return TrainableWeights(view, tuple(view.parameters()))


def pairs_of(view):
    maps = {f"network.{i}.weight": view.network[i] for i in (0, 2)}
    return TrainableLowRank(view, maps, rank=2)


def trained(view, make=weights_of, steps=6, scale=1.0):
    own, (x, y) = make(view), batch()

    def loss(step, rng):
        return scale * F.cross_entropy(view.network(x), y)

    losses = train(own, loss, TrainingPlan(steps, 1e-2), {}, name="own")
    return own.edit({}), losses


@pytest.mark.parametrize("make", [weights_of, pairs_of])
def test_a_killed_training_goes_on_to_the_same_edit(make, tmp_path) -> None:
    view = classifier()
    before = hash_tensors(view.parameters())
    whole, losses = trained(view, make)
    assert losses[-1] < losses[0]
    with pytest.raises(Killed), training_session(TrainingSession(dying(4), tmp_path, seconds=0.0)):
        trained(view, make)
    with training_session(TrainingSession(folder=tmp_path)):
        assert trained(view, make)[0].hash == whole.hash
    assert hash_tensors(view.parameters()) == before
    assert all(parameter.requires_grad and parameter.grad is None for parameter in view.network.parameters())


def test_a_state_of_another_network_is_refused(tmp_path) -> None:
    with training_session(TrainingSession(folder=tmp_path)):
        trained(classifier(), pairs_of)
        with pytest.raises(DataError, match="another model"):
            trained(classifier(1), pairs_of)


def test_a_loss_that_is_no_number_keeps_the_last_good_state(tmp_path) -> None:
    view, (x, y) = classifier(), batch()

    def loss(step, rng):
        return F.cross_entropy(view.network(x), y) * (float("nan") if step == 3 else 1.0)

    own = weights_of(view)
    with (
        pytest.raises(NumericsError, match=r"step 3 of 9.*after 3 steps is saved"),
        training_session(TrainingSession(folder=tmp_path)),
    ):
        train(own, loss, TrainingPlan(9, 1e-2), {}, name="own")


def test_edits_add_up_and_the_teacher_is_the_network_before() -> None:
    view, (x, _) = classifier(), batch()
    first, _ = trained(view)
    said = view.network(x)
    with first.applied(view):
        changed = view.network(x)
        second = pairs_of(view)
        with second.student(), second.teacher():
            assert torch.equal(view.network(x), changed)
        with with_pristine_weights(view):
            assert torch.equal(view.network(x), said)
        assert view.reference(first.names).keys() == set(first.names)
        assert hash_tensors(view.reference(first.names)) == hash_tensors(classifier().parameters())
    assert torch.equal(view.network(x), said)
    assert not torch.equal(changed, said)


def test_regularisers_that_need_no_text_work() -> None:
    view, request = classifier(), Request(("three",), ("",))
    free, _ = trained(view)
    with use_regularisers(Regularisers(l2sp=1e3, selft_topk=0.1), request):
        held, _ = trained(view)
    moved = {name: int((held.deltas[name] != 0).sum()) for name in held.names}
    assert sum(moved.values()) == int(0.1 * sum(p.numel() for p in view.parameters().values()))
    assert sum(d.square().sum() for d in held.deltas.values()) < sum(d.square().sum() for d in free.deltas.values())


@pytest.mark.parametrize(
    ("around", "said"),
    [
        (lambda: training_session(TrainingSession(options=TrainingOptions(dom=0.5))), "a plain network sees none"),
        (lambda: training_session(TrainingSession(options=TrainingOptions(checkpointing=True))), "cannot recompute"),
        (lambda: use_regularisers(Regularisers(projection="update"), Request(("three",), ("",))), "reads none"),
    ],
)
def test_what_a_classifier_has_no_use_for_is_refused(around, said) -> None:
    with pytest.raises(SettingsError, match=said), around():
        trained(classifier())


def test_names_of_another_network_are_refused() -> None:
    view = classifier()
    with pytest.raises(EditError, match=r"has no network\.7\.weight"):
        TrainableWeights(view, ("network.7.weight",))
    with pytest.raises(ModelError, match="has no unet"):
        view.modules("unet")


@pytest.mark.slow
def test_a_loss_of_a_script_can_be_kept(tmp_path) -> None:
    """It has no module that could be found by name."""
    import subprocess
    import sys

    script = tmp_path / "own.py"
    script.write_text(
        "from pathlib import Path\nfrom torch import nn\nfrom unconcept.models.module_view import ModuleView\n"
        "from unconcept.training import *\nview = ModuleView(nn.Linear(2, 2))\n"
        "own = TrainableWeights(view, tuple(view.parameters()))\n"
        "def loss(step, rng): return sum(t.square().sum() for t in own.tensors.values())\n"
        f"with training_session(TrainingSession(folder=Path({str(tmp_path)!r}))):\n"
        "    train(own, loss, TrainingPlan(2, 0.1), {}, name='own')\n"
    )
    subprocess.run([sys.executable, str(script)], check=True, timeout=120)
    assert (tmp_path / "own.safetensors").exists()
