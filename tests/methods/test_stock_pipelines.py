"""Edits of every mechanism on a user's own pipeline: what it draws is what this library draws from the same noise."""

import pytest
import torch

from tests import tiny
from tests.methods.test_contract import made
from tests.models.test_sampler import random, stock
from unconcept.core import Request
from unconcept.core.errors import ModelError
from unconcept.methods import methods
from unconcept.methods.a_star import AStar
from unconcept.methods.negative_prompt import NegativePrompt
from unconcept.models import open_model
from unconcept.models.diffusion.sampler import Sampler
from unconcept.models.diffusion.schedulers import named_scheduler

STEERING = [name for name in methods if methods[name].mechanism == "steering"]
FAST = {("nag", "flux"), ("sld", "pixart"), ("negative-prompt", "flux"), ("uce", "flux")}
CASES = [
    pytest.param(name, family, marks=() if family == "sd1" or (name, family) in FAST else pytest.mark.slow)
    for name in (*STEERING, "spm", "receler", "uce")
    for family in methods[name].families
]
PROMPTS = ["a dog face by a cat", "moon"]


def drawn_by_stock(pipe, noise, scale=3.0):
    return stock(pipe, noise, 3, scale, prompts=PROMPTS)


def drawn(pipe, noise, scale=3.0):
    """Latents of the stock pipeline and of the sampler."""
    view = open_model(pipe)
    with torch.no_grad():
        sampler = Sampler(view, 3)
        ours = sampler.denoise(sampler.initial_latents(noise), view.guide(PROMPTS, scale))
    return drawn_by_stock(pipe, noise, scale), ours


@pytest.mark.parametrize(("name", "family"), CASES)
def test_a_stock_pipeline_draws_with_the_edit_and_without_it_again(name, family) -> None:
    edit = made(name, family)
    pipe = (tiny.guided_view if methods[name].needs_guidance else tiny.view)(family, torch.float32).pipeline
    noise = random(2, *open_model(pipe).latent_shape)
    before = drawn_by_stock(pipe, noise)
    handle = edit.apply_to(pipe)
    theirs, ours = drawn(pipe, noise)
    assert torch.allclose(theirs, ours, rtol=0, atol=2e-5), (theirs - ours).abs().max()
    assert not torch.allclose(theirs, before, rtol=0, atol=1e-4)
    handle.remove()
    assert torch.equal(drawn_by_stock(pipe, noise), before)
    assert "progress_bar" not in vars(pipe)
    assert not {"step", "scale_model_input"} & vars(pipe.scheduler).keys()


@pytest.mark.parametrize("sampler", ["euler", "dpm"])
def test_latents_are_moved_before_they_are_scaled(sampler) -> None:
    """Two edits at once, of guidance and of latents, with schedulers that scale or look back; removed in any order."""
    pipe = tiny.pipeline("sd1")
    pipe.scheduler = named_scheduler(sampler, pipe.scheduler)
    view = open_model(pipe)
    noise = random(2, *view.latent_shape)
    edits = [
        AStar().erase(view, Request(("dog", "cat"), ("", ""))),
        NegativePrompt().erase(view, Request(("sun",), ("",))),
    ]
    handles = [edit.apply_to(pipe) for edit in edits]
    both, ours = drawn(pipe, noise)
    assert torch.allclose(both, ours, rtol=0, atol=2e-5)
    handles[0].remove()
    one, ours = drawn(pipe, noise)
    assert torch.allclose(one, ours, rtol=0, atol=2e-5)
    assert not torch.allclose(one, both, rtol=0, atol=1e-4)
    handles[1].remove()
    assert not {"step", "scale_model_input", "progress_bar"} & {*vars(pipe), *vars(pipe.scheduler)}


@pytest.mark.parametrize("family", ["sd1", "flux"])
def test_guidance_that_is_not_there_is_one_line(family) -> None:
    view = tiny.guided_view(family, torch.float32)
    handle = NegativePrompt().erase(view, Request(("sun",), ("",))).apply_to(view.pipeline)
    with pytest.raises(ModelError, match="give a guidance scale above 1") as error:
        stock(view.pipeline, random(2, *view.latent_shape), 2, 1.0)
    handle.remove()
    assert len(str(error.value).splitlines()) == 1
    assert not {"step", "scale_model_input"} & vars(view.pipeline.scheduler).keys()
