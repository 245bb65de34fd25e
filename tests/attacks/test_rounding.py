"""Rounding of edited weights, against what a rounded checkpoint would hold."""

import pytest
import torch

from tests.attacks.cases import case, case_of, shared
from unconcept.attacks.rounding import Rounding
from unconcept.core import Request
from unconcept.core.errors import SettingsError
from unconcept.linalg.rounding import round_weight
from unconcept.methods.nag import NAG

CONTRACT_SETTINGS = {"formats": ["int8", "nf4"]}


@pytest.mark.parametrize("edited", [True, False])
def test_the_model_computes_with_rounded_weights(edited) -> None:
    asked = case("sd1", edited)
    found = {attempt.steps: attempt.inputs[0].weights for attempt in Rounding(("int8", "int4")).search(asked)}
    denoiser = asked.model.modules("denoiser")
    linear = [n for n, module in denoiser.named_modules() if isinstance(module, torch.nn.Linear)]
    assert {f"unet.{name}.weight" for name in linear} == {*found[1].names}
    with asked.edit_applied():
        live = {name: denoiser.get_parameter(f"{name}.weight").detach().clone() for name in linear}
        for steps, storage in ((1, "int8"), (2, "int4")):
            with found[steps].applied(asked.model):
                for name, weight in live.items():
                    rounded = denoiser.get_parameter(f"{name}.weight")
                    assert torch.allclose(rounded, round_weight(weight, storage), atol=1e-6)
    assert float(found[2].deltas[found[2].names[0]].norm()) > 4 * float(found[1].deltas[found[1].names[0]].norm())


def test_an_edit_beside_the_model_stays_beside_the_rounded_base() -> None:
    view, _ = shared("sd1")
    asked = case_of(view, NAG().erase(view, Request(("dog",), ("cat",))))
    beside, plain = (list(Rounding(("nf4",)).search(one))[1].inputs[0].weights for one in (asked, case("sd1", False)))
    assert beside.hash == plain.hash


def test_no_format_is_refused() -> None:
    with pytest.raises(SettingsError, match="formats is empty"):
        Rounding(())
