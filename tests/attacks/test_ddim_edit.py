"""Editing by DDIM inversion against its card, on tiny models."""

import torch

from tests.attacks.cases import case
from unconcept.attacks.ddim_edit import DDIMEdit
from unconcept.models.diffusion.procedures.registry import SamplingRequest
from unconcept.models.diffusion.vae import decode_latents, encode_images

CONTRACT_SETTINGS = {"steps": 2, "edits": ["in ink style"]}


def test_the_way_back_leads_to_the_picture() -> None:
    """Under no text and no guidance, with the edit applied on both ways; the more steps, the closer."""
    asked, gaps = case("sd3"), []
    model = asked.model
    with torch.no_grad():
        picture = decode_latents(model, encode_images(model, asked.pictures[:1]))
    for steps in (3, 20):
        given = list(DDIMEdit(steps, edits=("x",)).search(asked))[1].inputs[0]
        with asked.edit_applied():
            back = given.sampling.sample(model, SamplingRequest(model.condition([given.text]), asked.noise[:1], 7, 1.0))
        gaps.append(float((back - picture).norm()))
    assert gaps[1] < gaps[0] / 3


def test_it_is_the_edited_model_that_inverts() -> None:
    found = [list(DDIMEdit(2, edits=("x",)).search(case("sd1", edited)))[-1].inputs[0] for edited in (True, False)]
    assert found[0].sampling.done == 0
    assert not torch.allclose(found[0].sampling.latents, found[1].sampling.latents, atol=1e-4)
