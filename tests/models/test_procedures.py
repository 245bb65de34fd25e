"""Every sampling procedure is data: saved, joined and drawn again; and the simple kinds against the sampler."""

import json
from functools import cache

import pytest
import torch

from tests import tiny, toy_text
from unconcept.models.diffusion import procedures as every_kind  # noqa: F401, registers them
from unconcept.models.diffusion.procedures.given_latents import GivenLatents
from unconcept.models.diffusion.procedures.image_to_image import ImageToImage
from unconcept.models.diffusion.procedures.registry import (
    SamplingRequest,
    join_procedures,
    procedure_tensors,
    procedure_texts,
    procedure_values,
    procedures,
    restore_procedure,
    shared_values,
)
from unconcept.models.diffusion.procedures.sampling_change import SamplingChange
from unconcept.models.diffusion.sampler import Sampler
from unconcept.models.diffusion.vae import decode_latents
from unconcept.models.model_view import SamplingStart

STEPS, SCALE = 4, 3.0
TEXTS = ["a dog", "a fox in ink"]


def latents(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*(shape or (1, 4, 8, 8)), generator=torch.Generator().manual_seed(seed))


def example(name: str, row: int):
    """One row of a kind, with tensors that differ from row to row."""
    kind = procedures[name]
    match name:
        case "image-to-image":
            return kind(latents(row), 0.5)
        case "given-latents":
            return kind(latents(row), 1, 3, "ddim")
        case "sampling-change":
            return kind(2, 1.5, "ddim")
        case "inpainting":
            return kind(latents(row), (latents(row + 5, 1, 1, 8, 8) > 0).float())
        case "enlarged-noise":
            return kind(torch.tensor([row + 7]), 1.5, 1.02)
        case "edit-friendly":
            words = torch.zeros(1, toy_text.LENGTH, dtype=torch.bool)
            words[0, 1 : 3 + row] = True
            return kind(latents(row), 0.1 * latents(row + 5, 1, 3, 4, 8, 8), words, 1, 3, 4.0, "intersect", 0.8)
        case "mutual-attention":
            return kind(latents(row), (["a cat", "it"][row],), 3, 3.0, 1, 0)
    raise AssertionError(f"no example of {name}: add one")


@cache
def view():
    return tiny.view("sd1", torch.float32)


def drawn(given, rows: slice = slice(None)) -> torch.Tensor:
    noise = torch.cat([latents(10), latents(11)])[rows]
    return given.sample(view(), SamplingRequest(view().condition(TEXTS[rows]), noise, STEPS, SCALE))


@pytest.mark.parametrize("name", list(procedures))
def test_a_procedure_is_saved_joined_and_drawn_again(name) -> None:
    """Through JSON and tensors; two rows at once give the pictures of each alone, and nothing else than they."""
    rows = [example(name, row) for row in (0, 1)]
    alone = [drawn(one, slice(i, i + 1)) for i, one in enumerate(rows)]
    back = [restore_procedure(json.loads(json.dumps(procedure_values(one))), procedure_tensors(one)) for one in rows]
    assert [procedure_values(one) for one in back] == [procedure_values(one) for one in rows]
    assert shared_values(rows[0]) == shared_values(rows[1])
    assert all(isinstance(text, str) for text in procedure_texts(rows[0]))
    together = drawn(join_procedures(back))
    assert torch.isfinite(together).all()
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)
    assert not torch.allclose(together[0], together[1], atol=1e-3)


def test_image_to_image_starts_from_the_noised_picture() -> None:
    """Half of four steps; at level 1 all are made, and the picture is noised to the first one's level."""
    clean, noise, model = latents(0), latents(10), view()
    sampler = Sampler(model, STEPS)
    for level, k in ((0.5, 2), (1.0, 0)):
        start = SamplingStart(sampler.add_noise(clean, noise, k), k)
        expected = model.sample(TEXTS[:1], start, STEPS, SCALE)
        assert torch.equal(drawn(ImageToImage(clean, level), slice(0, 1)), expected)


def test_after_all_steps_latents_are_the_picture() -> None:
    model, clean = view(), latents(0)
    found = drawn(GivenLatents(clean, STEPS, STEPS), slice(0, 1))
    with torch.no_grad():
        assert torch.allclose(found, decode_latents(model, clean), atol=1e-6)


def test_a_change_of_nothing_is_the_usual_picture() -> None:
    noise, model = latents(10), view()
    assert torch.equal(drawn(SamplingChange(), slice(0, 1)), model.sample(TEXTS[:1], noise, STEPS, SCALE))
    fewer = drawn(SamplingChange(steps=2, sampler="ddim"), slice(0, 1))
    assert torch.equal(fewer, model.sample(TEXTS[:1], noise, 2, SCALE, "ddim"))
