"""Latent inversion against its card, on tiny models."""

import math
from itertools import pairwise

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from tests.attacks.cases import case
from unconcept.attacks.latent_inversion import LatentInversion
from unconcept.models.diffusion.sampler import Sampler
from unconcept.models.diffusion.vae import encode_images
from unconcept.models.model_view import PromptGuidance

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


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_a_flow_is_inverted_by_eulers_steps_backwards(family) -> None:
    """x_there = x + (s_there - s_here) flow, at the levels at which the model's own scheduler draws."""
    asked = case(family)
    levels = [0.0, *sampling_levels(family)]
    with torch.no_grad(), asked.edit_applied():
        x = encode_images(asked.model, asked.pictures[:1])
        for here, there in pairwise(levels):
            x = x + (there - here) * asked.model.denoise(x, torch.tensor([1000 * here]), [""])
    found = list(LatentInversion(steps=3).search(asked))[1].inputs[0].noise
    assert torch.allclose(found, x[0], rtol=1e-4, atol=1e-4)


def sampling_levels(family: str) -> list[float]:
    """Of three steps, rising: SD3's shift is 3; FLUX's follows from 16 tokens, by the line through 256 and 4096."""
    if family == "sd3":
        scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
        scheduler.set_timesteps(3)
        return scheduler.sigmas[:-1].flip(0).tolist()
    shift = math.exp(0.5 + (1.15 - 0.5) / (4096 - 256) * (16 - 256))
    return [shift / (shift + 3 / k - 1) for k in (1, 2, 3)]


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_a_flow_draws_the_inverted_picture_again(family) -> None:
    """With the text of the inversion and no guidance; the more steps, the closer."""
    asked = case(family)
    gaps = []
    for steps in (4, 40):
        found = list(LatentInversion(steps=steps, drawn="null").search(asked))[1].inputs[0]
        with asked.edit_applied(), torch.no_grad():
            sampler = Sampler(asked.model, steps)
            guidance = PromptGuidance(asked.model.condition([found.text]))
            again = sampler.denoise(sampler.initial_latents(found.noise[None]), guidance)
            gaps.append(float((again - encode_images(asked.model, asked.pictures[:1])).norm()))
    assert gaps[1] < gaps[0] / 4
