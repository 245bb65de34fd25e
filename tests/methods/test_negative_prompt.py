"""The negative prompt against its formula and the stock pipeline's own."""

import pytest
import torch

from tests import tiny
from tests.methods.test_sld import PROMPTS, REQUEST, SCALE, STEPS, drawn, noise
from unconcept.core.errors import RequestError
from unconcept.core.request import Request
from unconcept.edits.guidance import negative_text
from unconcept.methods.negative_prompt import NegativePrompt
from unconcept.models.diffusion.callbacks import SamplingCallbacks, callbacks_on
from unconcept.prompts.text_matching import shortest_names

CONTRACT_SETTINGS: dict[str, object] = {}


@torch.no_grad()
def test_it_is_the_stock_pipelines() -> None:
    view = tiny.view("sd1", torch.float32)
    pipe, x = view.checkpoint.built_pipeline, noise(view).float()
    stock = pipe(
        PROMPTS,
        negative_prompt=["dog, cat"] * 2,
        num_inference_steps=STEPS,
        guidance_scale=SCALE,
        latents=x,
        output_type="latent",
    ).images
    assert torch.allclose(drawn(view, NegativePrompt().erase(view, REQUEST), x=x), stock, atol=1e-5)


@pytest.mark.parametrize("family", ["sd1", "sdxl", "sd3", "flux", "pixart"])
def test_it_guides_away_from_the_concept(family) -> None:
    """e = e_S + g (e_p - e_S) at the first step, each prediction by a call of its own."""
    view, seen = tiny.guided_view(family), []
    edit = NegativePrompt(prefix="a ").erase(view, REQUEST)
    watch = SamplingCallbacks(predicted=lambda at: seen.append(at))
    with edit.applied(view), callbacks_on(view.modules("denoiser"), watch):
        drawn(view, sampler=None)
    at = seen[0]
    with torch.no_grad():
        x = at.scale_input(at.latents)
        e_p, e_s = (view.denoise(x, at.t, view.condition(texts)) for texts in (PROMPTS, ["a dog, cat"] * 2))
    assert torch.allclose(at.prediction, e_s + SCALE * (e_p - e_s), atol=1e-9)


def test_names_within_names_are_left_out_and_the_rest_must_fit() -> None:
    view = tiny.view("sd1")
    words = ("retro style", "retro", "an object in Retro style", "classic", "classics", "retro")
    assert shortest_names(words) == ["retro", "classic", "classics"]
    assert negative_text(view, ("dog paw", "Dog", "cat"), "a ") == "a Dog, cat"
    with pytest.raises(RequestError, match="the names of 99 targets are too long for one negative text") as caught:
        NegativePrompt().erase(view, Request(tuple(f"dog {i}x" for i in range(99)), ()))
    assert "\n" not in str(caught.value)


def test_half_of_it_lies_between() -> None:
    view = tiny.view("sd1")
    edit = NegativePrompt().erase(view, REQUEST)
    none, half, whole = (drawn(view, edit.scaled(strength)) for strength in (0.0, 0.5, 1.0))
    assert torch.equal(none, drawn(view))
    assert 0 < float((half - none).norm()) < float((whole - none).norm())
