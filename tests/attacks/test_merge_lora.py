"""A harmless LoRA on an edited model: it knows nothing of the edit, and its strength scales it."""

from dataclasses import replace

import pytest
import torch

from tests.attacks.cases import case
from unconcept.attacks.merge_lora import MergeLora
from unconcept.core.errors import RequestError, SettingsError

CONTRACT_SETTINGS = {"strengths": [1.0, 2.0], "steps": 2, "batch_size": 2, "rank": 2, "lr": 1e-2}


def test_the_lora_is_of_the_unedited_model_and_is_scaled() -> None:
    attack = MergeLora((1.0, 2.0), steps=2, batch_size=2, rank=2, lr=1e-2)
    edited, plain = (list(attack.search(case("sd1", edited))) for edited in (True, False))
    assert edited[1].inputs[0].weights.hash == plain[1].inputs[0].weights.hash
    once, twice = (attempt.inputs[0].weights for attempt in edited[1:])
    for name, weight in case("sd1").model.reference(once.names).items():
        assert once.delta(name, weight).any()
        assert torch.allclose(2 * once.delta(name, weight), twice.delta(name, weight))


def test_it_needs_pictures_and_rising_strengths() -> None:
    with pytest.raises(RequestError, match="unrelated"):
        next(MergeLora().search(replace(case("sd1"), unrelated=None)))
    with pytest.raises(SettingsError, match="strengths"):
        MergeLora((2.0, 1.0))
