"""The reversed gradient: up the edit's own loss, from its own weights, with the unedited model as the teacher."""

from dataclasses import replace

import pytest
import torch

from tests.attacks.cases import case, case_of, shared
from unconcept.attacks import attacks
from unconcept.attacks.reversed_gradient import ReversedGradient
from unconcept.core import Request
from unconcept.core.errors import SettingsError
from unconcept.edits.origin import origin_for
from unconcept.evaluation.attacks.own_training import own_training, why_not_applicable
from unconcept.methods.esd import ESD
from unconcept.methods.nag import NAG
from unconcept.methods.spm import SPM
from unconcept.methods.uce import UCE
from unconcept.training.session import TrainingSession, training_session
from unconcept.training.trainables import with_pristine_weights

CONTRACT_SETTINGS = {"steps": 2}
REQUEST = Request(("dog",), ("cat",), ("fox",))
ESD_SETTINGS = {"iterations": 3, "lr": 1e-3, "ddim_steps": 4}


def stamped(name: str, edit, settings=None):
    return edit.stamped(origin_for(edit, shared("sd1")[0], REQUEST, name, settings or {}))


def trained_case():
    """A case whose edit ESD trained, with that training."""
    view, _ = shared("sd1")
    edit = stamped("esd", ESD(**ESD_SETTINGS).erase(view, REQUEST), ESD_SETTINGS)
    return replace(case_of(view, edit), retrain=own_training(edit, view))


class Onwards:
    """A transform that changes nothing and keeps the first step of a training."""

    def begin(self, training):
        self.start = {name: tensor.detach().clone() for name, tensor in training.tensors.items()}
        return [self]

    def gradient(self, step, gradients, params):
        return gradients

    def after_step(self, params):
        sides = zip(self.start.items(), params, strict=True)
        self.deltas = self.__dict__.get("deltas") or {name: (now - was).detach() for (name, was), now in sides}


def test_the_first_step_goes_against_the_step_that_the_training_would_take() -> None:
    """Adam's first step is the rate times the gradient's sign, so it is the same with the other sign."""
    asked, onwards = trained_case(), Onwards()
    found = list(ReversedGradient(1).search(asked))
    assert [attempt.steps for attempt in found] == [0, 1]
    back = found[1].inputs[0].weights.deltas
    session = TrainingSession(transforms=onwards.begin, teacher=with_pristine_weights)
    with asked.edit_applied(), training_session(session):
        asked.retrain()
    assert back.keys() == onwards.deltas.keys()
    assert max(float(delta.abs().max()) for delta in back.values()) > 1e-4
    assert all(torch.allclose(back[name], -onwards.deltas[name], atol=1e-6) for name in back)


def test_attempts_lie_on_one_path() -> None:
    asked = trained_case()
    long, short = (list(ReversedGradient(steps).search(asked)) for steps in (2, 1))
    assert [attempt.steps for attempt in long] == [0, 1, 2]
    assert long[1].inputs[0].weights.hash == short[1].inputs[0].weights.hash
    assert long[2].inputs[0].weights.hash != long[1].inputs[0].weights.hash
    assert not asked.model.original_weights


@pytest.mark.parametrize(
    ("name", "make", "reason"),
    [
        ("uce", lambda view: UCE().erase(view, REQUEST), "uce has none: its mechanism is closed-form"),
        ("nag", lambda view: NAG().erase(view, REQUEST), "nag has none: its mechanism is steering"),
        ("spm", lambda view: SPM(iterations=1).erase(view, REQUEST), "spm trains networks that begin anew"),
    ],
)
def test_other_mechanisms_are_named(name, make, reason) -> None:
    view, _ = shared("sd1")
    edit = stamped(name, make(view))
    told = why_not_applicable(attacks["reversed-gradient"], edit, view)
    assert told.startswith("reversed-gradient climbs the loss of the edit's own training; ")
    assert reason in told
    assert own_training(edit, view) is None


def test_an_edit_with_a_training_is_in_reach_and_the_unedited_model_stays() -> None:
    asked = trained_case()
    assert why_not_applicable(attacks["reversed-gradient"], asked.edit, asked.model) is None
    assert all(a.inputs[0].weights is None for a in ReversedGradient(2).search(case("sd1", edited=False)))


def test_steps_are_a_power_of_two() -> None:
    with pytest.raises(SettingsError, match="power of two"):
        ReversedGradient(3)
    assert torch.is_grad_enabled()
