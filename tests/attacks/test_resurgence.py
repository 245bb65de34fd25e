"""Resurgence against its card, on tiny models."""

from dataclasses import replace

import pytest
import torch

from tests.attacks.cases import case
from unconcept.attacks.resurgence import Resurgence
from unconcept.core.errors import RequestError
from unconcept.edits import DenseEdit

CONTRACT_SETTINGS = {"checkpoints": [1, 3], "batch_size": 2, "rank": 2}


@pytest.mark.parametrize("mode", ["lora", "full"])
def test_no_learning_rate_no_resurgence(mode) -> None:
    """Also bit for bit in the pictures."""
    asked = case("sd1")
    found = list(Resurgence(mode=mode, lr=0.0, checkpoints=(2,)).search(asked))[1].inputs[0].weights
    assert all(not found.delta(name, w).any() for name, w in asked.model.reference(found.names).items())
    pictures = []
    with asked.edit_applied():
        pictures.append(asked.model.sample(["a dog"], asked.noise[:1], 2, 3.0))
        with found.applied(asked.model):
            pictures.append(asked.model.sample(["a dog"], asked.noise[:1], 2, 3.0))
    assert torch.equal(*pictures)


@pytest.mark.parametrize(
    ("family", "mode", "lr"),
    [
        ("sd1", "lora", 3e-2),
        ("sd1", "full", 3e-3),
        pytest.param("flux", "lora", 3e-2, marks=pytest.mark.slow),
    ],
)
def test_fine_tuning_learns_its_pictures(family, mode, lr) -> None:
    asked = case(family)
    attempts = list(Resurgence(mode=mode, lr=lr, checkpoints=(8, 16), batch_size=4).search(asked))
    assert attempts[2].loss < attempts[1].loss
    assert attempts[2].inputs[0].weights.hash != attempts[1].inputs[0].weights.hash
    assert isinstance(attempts[1].inputs[0].weights, DenseEdit) == (mode == "full")


def test_checkpoints_do_not_change_the_way() -> None:
    """A run with a checkpoint on its way ends where a run without one ends."""
    for mode in ("lora", "full"):
        ends = [list(Resurgence(mode=mode, lr=1e-3, checkpoints=at).search(case("sd1")))[-1] for at in ((4,), (1, 4))]
        one, two = (attempt.inputs[0].weights for attempt in ends)
        own = case("sd1").model.reference(one.names)
        assert all(torch.allclose(one.delta(name, w), two.delta(name, w), atol=1e-6) for name, w in own.items())


def test_drift_adds_up() -> None:
    """theta_k - theta_0 = (theta_e - theta_0) + (theta_k - theta_e)."""
    asked = case("sd1")
    found = list(Resurgence(mode="full", lr=1e-3, checkpoints=(2,)).search(asked))[1].inputs[0].weights
    name = asked.edit.names[0]
    before = asked.model.text_maps()[name].detach().clone()
    with asked.edit_applied(), found.applied(asked.model):
        after = asked.model.text_maps()[name].detach().clone()
    assert torch.allclose(after - before, asked.edit.delta(name, before).float() + found.delta(name, before), atol=1e-5)


def test_resurgence_needs_pictures() -> None:
    with pytest.raises(RequestError, match="unrelated"):
        next(Resurgence().search(replace(case("sd1"), unrelated=None)))
