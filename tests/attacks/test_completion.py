"""Completion against its card, on tiny models."""

from dataclasses import replace

import pytest
import torch

from tests.attacks.cases import case
from unconcept.attacks.completion import Completion
from unconcept.core.errors import SettingsError
from unconcept.models.diffusion.procedures.registry import SamplingRequest

CONTRACT_SETTINGS = {"handovers": [0.5]}
STEPS = 3


def drawn(asked, given, edited: bool = True) -> torch.Tensor:
    model, held = asked.model, asked if edited else replace(asked, edit=None)
    with held.edit_applied():
        texts = model.condition([given.text])
        return given.sampling.sample(model, SamplingRequest(texts, asked.noise[:1], STEPS, asked.guidance_scale))


@pytest.mark.parametrize(("family", "name"), [("sd1", "ddim"), ("flux", None)])
def test_the_same_model_ends_in_its_own_picture_wherever_it_is_handed_over(family, name) -> None:
    """And after no step, the edited model draws as it always does."""
    asked = replace(case(family), steps=STEPS)
    attempts = list(Completion((0.3, 0.7)).search(asked))
    assert [one.steps for one in attempts] == [0, 30, 70]
    model, start = asked.model, asked.noise[:1]
    plain = model.sample([asked.prompts[0]], start, STEPS, asked.guidance_scale, name)
    for one in attempts:
        assert torch.allclose(drawn(asked, one.inputs[0], edited=False), plain, atol=1e-5)
    with asked.edit_applied():
        edited = model.sample([asked.prompts[0]], start, STEPS, asked.guidance_scale, name)
    assert torch.allclose(drawn(asked, attempts[0].inputs[0]), edited, atol=1e-5)
    assert not torch.allclose(edited, plain, atol=1e-4)


def test_handovers_rise() -> None:
    with pytest.raises(SettingsError, match="must rise"):
        Completion((0.5, 0.2))
