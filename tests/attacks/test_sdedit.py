"""SDEdit against its card, on tiny models."""

import pytest
import torch

from tests.attacks.cases import case
from unconcept.attacks.sdedit import SDEdit
from unconcept.core.errors import SettingsError
from unconcept.models.diffusion.procedures.image_to_image import ImageToImage
from unconcept.models.diffusion.procedures.registry import SamplingRequest
from unconcept.models.diffusion.vae import decode_latents, encode_images
from unconcept.prompts.picture_edits import WantedChange

CONTRACT_SETTINGS = {"strengths": [0.5, 1.0], "edits": ["in ink style"]}


def test_at_full_strength_a_flow_draws_from_noise() -> None:
    """And at any strength the way begins at the picture: another one gives another result."""
    asked = case("sd3")
    model, noise = asked.model, asked.noise[:1]
    clean = encode_images(model, asked.pictures[:1]).detach()
    wanted = SamplingRequest(model.condition(["a"]), noise, 2, 3.0)
    drawn = ImageToImage(clean, 1.0).sample(model, wanted)
    assert torch.allclose(drawn, model.sample(["a"], noise, 2, 3.0), atol=1e-5)
    half = [ImageToImage(x, 0.5).sample(model, wanted) for x in (clean, -clean)]
    assert not torch.allclose(half[0], half[1], atol=1e-3)


def test_each_edit_is_tried_at_each_strength_without_the_name_unless_asked() -> None:
    edits = ("in ink style", "and a key", "on a blue sea")
    floor, control, *tried = SDEdit((0.3, 0.7), edits).search(case("sd1"))
    assert [(one.steps, one.control) for one in (floor, control)] == [(0, None), (0, "picture itself")]
    assert [(one.inputs[0].sampling.level, one.inputs[0].text) for one in tried] == [
        (level, text) for level in (0.3, 0.7) for text in edits
    ]
    assert tried[0].wanted == WantedChange(("style",), "ink")
    assert (tried[1].wanted.label, tried[2].wanted) == ("key", None)
    *_, last = SDEdit((0.3,), edits[:1], names_concept=True).search(case("sd1"))
    assert last.inputs[1].text == "a dog in ink style"


def test_the_control_is_the_picture_as_the_autoencoder_gives_it() -> None:
    asked = case("sd1")
    _, control, *_ = SDEdit(edits=("x",)).search(asked)
    given, model = control.inputs[1], asked.model
    with torch.no_grad():
        expected = decode_latents(model, encode_images(model, asked.pictures[1:2]))
    wanted = SamplingRequest(model.condition([given.text]), asked.noise[:1], 9, 3.0)
    drawn = given.sampling.sample(model, wanted)
    assert torch.allclose(drawn, expected, atol=1e-5)


def test_a_strength_of_nothing_is_refused() -> None:
    with pytest.raises(SettingsError, match="strengths must be above 0"):
        SDEdit(strengths=(0.0,))
