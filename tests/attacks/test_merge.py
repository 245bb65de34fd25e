"""Merging with the unedited model, against the average of both weights."""

import pytest
import torch

from tests.attacks.cases import case, case_of, shared
from unconcept.attacks import attacks, why_out_of_reach
from unconcept.attacks.merge import Merge
from unconcept.core import Request
from unconcept.core.errors import SettingsError
from unconcept.methods.nag import NAG

CONTRACT_SETTINGS = {"shares": [0.5, 1.0]}


def test_weights_are_the_average_and_at_share_1_the_unedited_ones() -> None:
    asked = case("sd1")
    found = {attempt.steps: attempt.inputs[0].weights for attempt in Merge((0.25, 1.0)).search(asked)}
    own = {name: w.detach().clone() for name, w in asked.model.text_maps().items()}
    with asked.edit_applied():
        edited = {name: w.detach().clone() for name, w in asked.model.text_maps().items()}
        assert any((edited[name] - own[name]).abs().max() > 1e-3 for name in own)
        for steps, share in ((1, 0.25), (2, 1.0)):
            with found[steps].applied(asked.model):
                for name, merged in asked.model.text_maps().items():
                    wanted = share * own[name] + (1 - share) * edited[name]
                    assert torch.allclose(merged, wanted, atol=1e-6)


def test_the_unedited_model_is_merged_with_itself() -> None:
    assert all(a.inputs[0].weights is None for a in Merge().search(case("sd1", edited=False)))


def test_an_edit_that_changes_no_weight_is_out_of_reach() -> None:
    view, _ = shared("sd1")
    edit = NAG().erase(view, Request(("dog",), ("cat",)))
    asked = case_of(view, edit)
    assert "changes no weight" in why_out_of_reach(attacks["merge"], asked.edit, view)
    assert why_out_of_reach(attacks["merge"], case("sd1").edit, view) is None


@pytest.mark.parametrize("shares", [(), (0.0,), (0.5, 0.25), (0.5, 1.5)])
def test_shares_rise_to_at_most_1(shares) -> None:
    with pytest.raises(SettingsError, match="shares"):
        Merge(shares)
