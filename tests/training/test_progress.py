"""One variable for where a step is; the papers' conventions lead to it and back."""

from fractions import Fraction

import pytest
import torch

from tests import tiny
from unconcept.core.errors import SettingsError
from unconcept.models.diffusion.sampling_grid import Grid
from unconcept.training.progress import done, drawn, of_done, of_remaining, on_training_schedule, window


def test_steps_done_and_steps_left_meet() -> None:
    for steps in (7, 28, 30, 50):
        for k in range(steps + 1):
            assert of_done(k, steps) == of_remaining(steps - k, steps)
            assert done(of_done(k, steps), steps) == k


def test_the_cards_numbers() -> None:
    """DDIM 30 of SPM: one step done is told timestep 966, 29 are told 33."""
    assert on_training_schedule(of_done(1, 30)) == 966
    assert on_training_schedule(of_done(29, 30)) == 33
    assert on_training_schedule(of_done(0, 30)) == 999
    assert window(of_done(0, 50), 50) == range(980, 1000)
    assert window(of_remaining(1, 50), 50) == range(20)


@pytest.mark.parametrize("steps", [20, 25, 50])
def test_all_conventions_tell_the_same_timestep_within_one_step(steps) -> None:
    grid = Grid.of(tiny.shared("sd1"), steps)
    for k in range(steps):
        p = of_done(k, steps)
        assert int(grid.t[k]) in window(p, steps)
        assert on_training_schedule(p) in window(p, steps)


def test_windows_share_nothing_and_leave_nothing() -> None:
    for steps in (7, 30, 50):
        told = [t for k in range(steps) for t in window(of_done(k, steps), steps)]
        assert sorted(told) == list(range(1000))


def test_draws_are_uniform_from_the_lowest() -> None:
    rng = torch.Generator().manual_seed(0)
    seen = {drawn(1, 4, rng) for _ in range(60)}
    assert seen == {Fraction(1, 4), Fraction(2, 4), Fraction(3, 4)}


def test_what_is_no_step() -> None:
    for wrong in (lambda: of_done(5, 4), lambda: of_remaining(-1, 4), lambda: window(Fraction(1), 4), lambda: drawn(4, 4, torch.Generator())):
        with pytest.raises(SettingsError):
            wrong()
