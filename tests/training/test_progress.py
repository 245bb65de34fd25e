"""One variable for where a step is; the papers' conventions lead to it and back."""

from fractions import Fraction

import pytest
import torch

from tests import tiny
from unconcept.core.errors import SettingsError
from unconcept.models.diffusion.sampler import Sampler
from unconcept.training.progress import (
    progress_from_done,
    progress_from_remaining,
    sample_progress,
    step_timesteps,
    steps_done,
    training_timestep,
)


def test_steps_done_and_steps_left_meet() -> None:
    for steps in (7, 28, 30, 50):
        for k in range(steps + 1):
            assert progress_from_done(k, steps) == progress_from_remaining(steps - k, steps)
            assert steps_done(progress_from_done(k, steps), steps) == k


def test_the_cards_numbers() -> None:
    """DDIM 30 of SPM: one step done is told timestep 966, 29 are told 33."""
    assert training_timestep(progress_from_done(1, 30)) == 966
    assert training_timestep(progress_from_done(29, 30)) == 33
    assert training_timestep(progress_from_done(0, 30)) == 999
    assert step_timesteps(progress_from_done(0, 50), 50) == range(980, 1000)
    assert step_timesteps(progress_from_remaining(1, 50), 50) == range(20)


@pytest.mark.parametrize("steps", [20, 25, 50])
def test_all_conventions_tell_the_same_timestep_within_one_step(steps) -> None:
    sampler = Sampler(tiny.shared("sd1"), steps, "ddim")
    for k in range(steps):
        p = progress_from_done(k, steps)
        assert int(sampler.timesteps[k]) in step_timesteps(p, steps)
        assert training_timestep(p) in step_timesteps(p, steps)


def test_windows_share_nothing_and_leave_nothing() -> None:
    for steps in (7, 30, 50):
        told = [t for k in range(steps) for t in step_timesteps(progress_from_done(k, steps), steps)]
        assert sorted(told) == list(range(1000))


def test_draws_are_uniform_from_the_lowest() -> None:
    rng = torch.Generator().manual_seed(0)
    seen = {sample_progress(1, 4, rng) for _ in range(60)}
    assert seen == {Fraction(1, 4), Fraction(2, 4), Fraction(3, 4)}


def test_what_is_no_step() -> None:
    for wrong in (
        lambda: progress_from_done(5, 4),
        lambda: progress_from_remaining(-1, 4),
        lambda: step_timesteps(Fraction(1), 4),
        lambda: sample_progress(4, 4, torch.Generator()),
    ):
        with pytest.raises(SettingsError):
            wrong()
