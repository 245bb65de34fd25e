"""Inpainting against its cards, on tiny models."""

import pytest
import torch

from tests.attacks.cases import case
from unconcept.attacks.inpainting import InpaintingFill, centred_square
from unconcept.models.diffusion.procedures.inpainting import Inpainting
from unconcept.models.diffusion.procedures.registry import SamplingRequest
from unconcept.models.diffusion.sampler import Sampler
from unconcept.models.diffusion.vae import decode_latents, encode_images
from unconcept.models.views import pipeline_view

CONTRACT_SETTINGS = {"sides": [0.5], "texts": ["prompt", "null"]}


def filled(asked, share: float) -> torch.Tensor:
    """The picture of the first prompt, with a square of this share filled."""
    mask = torch.zeros(1, 1, 8, 8) if share == 0 else centred_square((8, 8), share)[None, None]
    with torch.no_grad():
        given = Inpainting(encode_images(asked.model, asked.pictures[:1]), mask)
    return given.sample(asked.model, SamplingRequest(asked.model.condition(["a dog"]), asked.noise[:1], 3, 3.0))


def test_without_a_mask_the_picture_stays_and_a_full_one_draws_anew() -> None:
    asked = case("sd1")
    with torch.no_grad():
        picture = decode_latents(asked.model, encode_images(asked.model, asked.pictures[:1]))
    assert torch.allclose(filled(asked, 0.0), picture, atol=1e-5)
    assert torch.allclose(filled(asked, 1.0), asked.model.sample(["a dog"], asked.noise[:1], 3, 3.0), atol=1e-5)


@pytest.mark.parametrize("family", ["sd1", "sd3"])
def test_what_is_outside_of_the_square_is_the_pictures(family, monkeypatch) -> None:
    """The last latents: the picture's own outside of the square, others inside."""
    asked = case(family)
    monkeypatch.setattr(pipeline_view, "finish_pictures", lambda model, latents: latents)
    with torch.no_grad():
        clean = encode_images(asked.model, asked.pictures[:1])
    gap, square = (filled(asked, 0.5) - clean).abs().amax(1)[0], centred_square((8, 8), 0.5).bool()
    assert float(gap[~square].max()) < 1e-5
    assert float(gap[square].min()) > 1e-3


@torch.no_grad()
def test_the_picture_is_noised_to_the_level_of_each_step(monkeypatch) -> None:
    """Step by step: a step of the sampler, and outside of the square the picture with the first noise at that level."""
    asked = case("sd1")
    monkeypatch.setattr(pipeline_view, "finish_pictures", lambda model, latents: latents)
    clean, mask = encode_images(asked.model, asked.pictures[:1]), centred_square((8, 8), 0.5)
    loop, x = Sampler(asked.model, 3), asked.noise[:1]
    for k in range(3):
        x = loop.denoise(x, asked.model.guide(["a dog"], 3.0), k, k + 1)
        known = clean if k == 2 else loop.add_noise(clean, asked.noise[:1], k + 1)
        x = mask * x + (1 - mask) * known
    assert torch.allclose(filled(asked, 0.5), x, atol=1e-5)


def test_the_square_is_in_the_middle() -> None:
    square = centred_square((8, 8), 0.5)
    assert square.sum() == 16
    assert square[2:6, 2:6].all()
    assert centred_square((8, 6), 1.0).all()
    assert centred_square((8, 8), 0.01).sum() == 1


def test_a_blank_square_alone_is_the_floor_and_further_ones_are_controls() -> None:
    asked = case("sd1")
    floor, *tried = InpaintingFill((0.5, 0.75)).search(asked)
    assert [one.control for one in tried] == [None, None, "picture with a blank square of side 0.75", None, None]
    assert (floor.steps, floor.control) == (0, None)
    blank = asked.pictures[:1].clone()
    blank[:, :, 4:12, 4:12] = 1
    with torch.no_grad():
        assert torch.allclose(floor.inputs[0].sampling.latents, encode_images(asked.model, blank), atol=1e-6)
    assert [one.inputs[0].text for one in tried[:2]] == [asked.prompts[0], ""]
