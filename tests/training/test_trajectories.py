"""Latents of a step: partial sampling against the pipeline's own, pools against partial sampling, kept trajectories
step by step.
"""

from collections import Counter

import pytest
import torch

from tests import tiny
from unconcept.core.errors import SettingsError
from unconcept.training.goals import TextEncodings
from unconcept.training.trajectories import (
    GuidedSampler,
    PartialSampling,
    ResumableTrajectory,
    TrajectoryPool,
    focused_timesteps,
    noise_latents,
)

EVERY = (*tiny.FAMILIES, *tiny.MMDITS)


def walk(view, steps=5, scale=3.0):
    return GuidedSampler(view, TextEncodings.of(view), steps, scale)


def counting(view):
    rows = []
    view.modules("denoiser").register_forward_pre_hook(lambda module, args, kwargs: rows.append(1), with_kwargs=True)
    return rows


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_end_is_what_the_pipeline_draws(family) -> None:
    view = tiny.view(family, torch.float32)
    course = walk(view)
    noise = course.initial_latents([3])
    ours = course.denoise_steps(noise, ["a dog"], 0, 5)
    empty = {"negative_prompt": [""]}  # or SDXL puts zeros in its place
    theirs = view.pipeline(
        ["a dog"], **empty, latents=noise, num_inference_steps=5, guidance_scale=3.0, output_type="latent"
    ).images
    assert torch.allclose(ours, theirs, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("family", EVERY)
def test_k_steps_are_k_calls(family) -> None:
    view = tiny.view(family, torch.float32)
    calls, course = counting(view), walk(view)
    noise = course.initial_latents([0, 1])
    assert torch.equal(course.denoise_steps(noise, ["dog"] * 2, 0, 0), noise)
    assert not calls
    assert course.denoise_steps(noise, ["dog"] * 2, 0, 3).shape == noise.shape
    assert len(calls) == 3


def test_a_row_knows_nothing_of_its_neighbours() -> None:
    course = walk(tiny.shared("sd1"))
    both = course.denoise_steps(course.initial_latents([4, 5]), ["dog", "cat"], 0, 4)
    alone = course.denoise_steps(course.initial_latents([5]), ["cat"], 0, 4)
    assert torch.allclose(both[1:], alone, atol=1e-10)


def test_every_latent_of_a_pool_is_partial_sampling_and_each_is_used_once() -> None:
    """Two targets, two trajectories of five steps: ten rows hold each pair of target and steps once."""
    view = tiny.view("sd1")
    course = walk(view)
    pool, calls = TrajectoryPool(course, ["dog", "cat"], 2, 10, seed=3), counting(view)
    points = [pool.draw(step, 2, torch.Generator()) for step in range(5)]
    assert len(calls) == 4
    seen = Counter((prompt, k) for point in points for prompt, k in zip(point.prompts, point.k, strict=True))
    assert seen == {(prompt, k): 1 for prompt in ("dog", "cat") for k in range(5)}
    for point in points:
        assert point.t.tolist() == [int(course.timestep(k)) for k in point.k]
        for x, prompt, k in zip(point.x_t, point.prompts, point.k, strict=True):
            seed = 3 * 1_000_003 + ("dog", "cat").index(prompt)
            assert torch.allclose(
                x[None], course.denoise_steps(course.initial_latents([seed]), [prompt], 0, k), atol=1e-10
            )


def test_prompts_of_a_pool_take_turns() -> None:
    """Three trajectories of five steps: each three rows in turn are of all three prompts, each row another one."""
    pool = TrajectoryPool(walk(tiny.shared("sd1")), ["dog", "cat", "car"], 3, 15, seed=3)
    points = [pool.draw(step, 3, torch.Generator()) for step in range(5)]
    assert all(set(point.prompts) == {"dog", "cat", "car"} for point in points)
    assert len({(prompt, k) for point in points for prompt, k in zip(point.prompts, point.k, strict=True)}) == 15
    assert len({point.k for point in points}) == 5


def test_a_pool_can_be_asked_out_of_order_and_draws_no_more_than_it_must() -> None:
    view = tiny.view("sd1")
    one, two = (TrajectoryPool(walk(view), ["dog"], 3, 17, seed=1) for _ in range(2))
    in_order = [one.draw(step, 1, torch.Generator()).x_t for step in range(17)]
    assert all(torch.equal(two.draw(step, 1, torch.Generator()).x_t, in_order[step]) for step in (16, 2, 15))
    assert len(one._latents) == 1


def test_a_small_pool_of_many_prompts_shows_each_before_any_again() -> None:
    """Blocks of two trajectories of three steps out of five prompts: thirty rows show each prompt at each number of
    steps.
    """
    course = walk(tiny.shared("sd1"), 3)
    prompts = ["dog", "cat", "car", "sun", "hat"]
    pool = TrajectoryPool(course, prompts, 2, 60, seed=2, every=False)
    rows = [pool.draw(step, 1, torch.Generator()) for step in range(60)]
    for half in (rows[:30], rows[30:]):
        assert Counter((point.prompts[0], point.k[0]) for point in half) == {
            (prompt, k): 2 for prompt in prompts for k in range(3)
        }
    assert len({point.prompts[0] for point in rows[:6]}) == 2
    again = TrajectoryPool(course, prompts, 2, 60, seed=2, every=False)
    assert torch.equal(again.draw(37, 1, torch.Generator()).x_t, rows[37].x_t)


def test_partial_sampling_draws_every_number_of_steps() -> None:
    source, rng = PartialSampling(walk(tiny.shared("sd1"), 3), ["dog", "cat"]), torch.Generator().manual_seed(0)
    points = [source.draw(step, 2, rng) for step in range(24)]
    assert {point.k[0] for point in points} == {0, 1, 2}
    turns = [{point.prompts[0] for point in points[at : at + 2]} for at in range(0, 24, 2)]
    assert turns == [{"dog", "cat"}] * 12
    assert not torch.equal(points[0].x_t[0], points[0].x_t[1])


def test_a_kept_trajectory_goes_one_step_where_it_can() -> None:
    view = tiny.view("sd1")
    calls, course = counting(view), walk(view)
    kept, texts = ResumableTrajectory(course), ["dog", "cat"]
    kept.advance_to(texts, 0, 2, step=0)
    assert len(calls) == 2
    third = kept.advance_to(texts, 0, 3, step=1)
    assert len(calls) == 3
    assert torch.allclose(third, course.denoise_steps(course.initial_latents([0]), ["dog"], 0, 3), atol=1e-10)
    del calls[:]
    kept.advance_to(texts, 1, 4, step=2)
    assert len(calls) == 4
    again = ResumableTrajectory(course)
    again.restore(kept.state())
    assert torch.equal(again.advance_to(texts, 1, 5, step=3), kept.advance_to(texts, 1, 5, step=3))


@pytest.mark.parametrize("family", EVERY)
def test_noised_pictures_are_what_the_model_was_trained_on(family) -> None:
    view = tiny.shared(family)
    x0 = torch.randn(3, *view.latent_shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x_t, t, wanted = noise_latents(view, x0, torch.Generator().manual_seed(1))
    assert torch.allclose(view.schedule.x0(wanted, x_t, t), x0, atol=1e-6)


def test_an_empty_pool_is_refused() -> None:
    with pytest.raises(SettingsError, match="at least one"):
        TrajectoryPool(walk(tiny.shared("sd1")), ["dog"], 0, 4)


def test_most_timesteps_are_where_the_concept_takes_its_shape() -> None:
    t = focused_timesteps(20_000, torch.Generator().manual_seed(0), 1000)
    assert ((t >= 150) & (t <= 450)).float().mean() > 0.85
    assert t.min() >= 0
    assert t.max() < 1000
