"""Recall against its card, on tiny models."""

from dataclasses import replace

import pytest
import torch

from tests.attacks.cases import case
from unconcept.attacks.recall import Recall, SignedMomentum, _both_sides
from unconcept.models.diffusion.vae import encode_images
from unconcept.training import Descent

CONTRACT_SETTINGS = {"timesteps": 2, "iterations": 2, "interval": 1, "batch_size": 2}
QUIET = {"timesteps": 1, "interval": 9}


def latents_of(attempt, i: int = 0) -> torch.Tensor:
    return attempt.inputs[i].sampling.latents


def test_the_floor_is_the_plain_picture_and_the_start_is_a_mixture() -> None:
    asked = case("sd1")
    floor, itself, start, *_ = Recall(**QUIET, iterations=1).search(asked)
    with torch.no_grad():
        pictures = encode_images(asked.model, asked.examples)
    assert torch.allclose(latents_of(floor, 2), pictures[2:3], atol=1e-5)
    assert (floor.inputs[0].sampling.level, floor.inputs[0].text) == (0.8, asked.prompts[0])
    assert (itself.control, start.control) == ("picture itself", "no search")
    noise = (latents_of(start) - 0.25 * pictures[:1]) / 0.75
    assert 0.7 < float(noise.std()) < 1.3
    _, _, whole, *_ = Recall(**QUIET, iterations=1, balance=1.0).search(asked)
    assert torch.allclose(latents_of(whole), pictures[:1], atol=1e-5)


def test_a_step_moves_every_entry_by_its_size_and_the_picture_is_added_again() -> None:
    asked = case("sd1")
    *_, start, after = Recall(**QUIET, iterations=1, lr=0.01).search(asked)
    moved = latents_of(after) - latents_of(start)
    assert torch.allclose(moved.abs(), torch.full_like(moved, 0.01), atol=1e-6)
    *_, again = Recall(timesteps=1, interval=1, iterations=1, lr=0.01, gamma=0.5).search(asked)
    with torch.no_grad():
        picture = encode_images(asked.model, asked.examples[:1])
    assert torch.allclose(latents_of(again), latents_of(after) + 0.5 * picture, atol=1e-6)


def test_the_picture_itself_has_no_loss_and_no_direction() -> None:
    """L is zero there, and so is the update: the sign of a zero momentum."""
    asked = replace(case("sd1"), guidance_scale=3.0)
    *_, start, after = Recall(**QUIET, iterations=1, balance=1.0).search(asked)
    assert after.loss == 0
    assert torch.equal(latents_of(start), latents_of(after))


@pytest.mark.parametrize("family", ["sd1", "flux"])
def test_descent_comes_nearer_and_the_released_sign_moves_away(family) -> None:
    """The loss on one fixed noise, before and after."""
    asked = case(family)
    model, ends = asked.model, {}
    rng = torch.Generator().manual_seed(5)
    noise, at = torch.randn(1, *model.latent_shape, generator=rng), torch.tensor(500)
    with torch.no_grad():
        picture = encode_images(model, asked.examples[:1])

    def error(found) -> float:
        with torch.no_grad(), asked.edit_applied():
            guidance = model.guide([asked.prompts[0]], asked.guidance_scale)
            sides = [_both_sides(asked, guidance, x, noise, at) for x in (picture, found)]
        return float((sides[0] - sides[1]).square().mean())

    for direction in ("descent", "as_released"):
        _, _, start, after, *_ = Recall(direction, timesteps=2, interval=9, lr=0.02, iterations=8).search(asked)
        ends[direction] = error(latents_of(after)) / error(latents_of(start))
    assert ends["descent"] < 1 < ends["as_released"]


def test_momentum_is_of_gradients_divided_by_their_mean_size() -> None:
    """v = 0.9 v + g / mean |g|, and the step is its sign: written out for two steps, each row for itself."""
    first, second = torch.tensor([[4.0, -2.0], [1.0, 1.0]]), torch.tensor([[-1.0, 9.0], [-3.0, 1.0]])
    v = 0.9 * (first / torch.tensor([[3.0], [1.0]])) + second / torch.tensor([[5.0], [2.0]])
    rule = SignedMomentum(0.9, -1.0)
    assert torch.equal(rule.gradient(0, [first], [])[0], -first.sign())
    assert torch.equal(rule.gradient(1, [second], [])[0], -v.sign())
    x = torch.zeros(2, 2, requires_grad=True)
    Descent([x], 0.1, "sgd", transforms=[SignedMomentum(0.9, 1.0)]).run(lambda step, rng: (first * x).sum(), 1)
    assert torch.allclose(x, -0.1 * first.sign())


def test_the_text_stays() -> None:
    asked = case("sd1")
    for attempt in Recall(**QUIET, iterations=1).search(asked):
        if attempt.control != "picture itself":
            assert [given.text for given in attempt.inputs.values()] == list(asked.prompts)
