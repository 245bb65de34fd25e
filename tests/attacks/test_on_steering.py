"""Attacks run on an edit that changes no weight as on any other."""

from dataclasses import replace

import pytest
import torch

from tests import tiny
from tests.attacks.cases import QUICK, case, input_hash
from unconcept.attacks import attacks
from unconcept.core import Request
from unconcept.core.settings import build_settings
from unconcept.methods.adavd import AdaVD

REQUEST = Request(("dog",), ("cat",), ("fox",))


@pytest.mark.parametrize(("name", "settings"), [("concept-inversion", {}), ("latent-inversion", {"text": "prompt"})])
def test_the_search_sees_the_steering(name, settings) -> None:
    """What is found under a strong edit is not what is found without one."""
    asked = case("sd1")
    strong = replace(asked, edit=AdaVD(token_sim=False).erase(asked.model, REQUEST))
    attack = build_settings(attacks[name].settings, QUICK[name] | settings)
    ends = [list(attack.search(one))[-1] for one in (replace(asked, edit=None), strong)]
    assert input_hash(ends[0]) != input_hash(ends[1])


def test_finished_states_are_steered() -> None:
    view, rng = tiny.shared("sdxl"), torch.Generator().manual_seed(0)
    noise = torch.randn(1, *view.latent_shape, generator=rng, dtype=view.dtype)
    given = view.condition(["a dog"])
    plain = view.sample(given, noise, 2, 3.0)
    with AdaVD().erase(view, REQUEST).applied(view):
        assert not torch.allclose(view.sample(given, noise, 2, 3.0), plain, atol=1e-5)
