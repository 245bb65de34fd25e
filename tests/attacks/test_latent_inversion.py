"""Latent inversion against its card, on tiny models."""

from itertools import pairwise

import pytest
import torch

from tests.attacks.cases import case
from unconcept.attacks.latent_inversion import LatentInversion
from unconcept.models.diffusion.vae import encode_images

CONTRACT_SETTINGS = {"steps": 3, "batch_size": 2}


@pytest.mark.parametrize("family", ["sd1", "sd2"])
def test_ddim_is_the_rule_written_out(family) -> None:
    """x_there = a_there x0 + s_there epsilon, both read off the edited model's word on x_here under the empty text."""
    asked = case(family)
    signal = asked.model.pipeline.scheduler.alphas_cumprod
    with torch.no_grad(), asked.edit_applied():
        x = encode_images(asked.model, asked.pictures[:1])
        for here, there in pairwise((0, 333, 666, 999)):
            said = asked.model.denoise(x, torch.tensor([here]), [""])
            a, s = signal[here].sqrt(), (1 - signal[here]).sqrt()
            epsilon, clean = (a * said + s * x, a * x - s * said) if family == "sd2" else (said, (x - s * said) / a)
            x = signal[there].sqrt() * clean + (1 - signal[there]).sqrt() * epsilon
    found = list(LatentInversion(steps=3).search(asked))[1].inputs[0].noise
    assert torch.allclose(found, x[0], rtol=1e-4, atol=1e-4)


def test_drawn_under_nothing_names_nothing() -> None:
    attempt = list(LatentInversion(steps=2, drawn="null").search(case("sd1")))[1]
    assert {found.text for found in attempt.inputs.values()} == {""}
