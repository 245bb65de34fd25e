"""A rehearsal takes a few steps of each training, knows how many there are, and leaves the model as it was."""

import pytest
import torch

from tests import tiny
from tests.methods.planted import planted_services
from tests.methods.quick import QUICK
from tests.methods.test_contract import weights
from unconcept.core import Request
from unconcept.methods import methods
from unconcept.training import TrainingSession, session, training_session
from unconcept.training.images.training_images import generate_images
from unconcept.training.session import Rehearsal

SIX = Request(("dog", "cat", "cow", "pig", "hen", "owl"), ("tree",) * 6, ("car",))  # more than one budget serves
TRAINED = [name for name in methods if methods[name].mechanism == "trained"]
FAST = ("esd", "kscu")  # one budget by the rule, and one of its own


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in TRAINED]
)
def test_every_training_is_counted(name, monkeypatch) -> None:
    """As many steps as the training itself takes, of which it takes two."""
    monkeypatch.setattr(session, "_MOST_STEPS", 2)
    view, taken, method = tiny.view("sd1"), [], methods[name].settings(**QUICK.get(name, {}))
    before = weights(view)
    with training_session(TrainingSession(on_progress=taken.append)):
        real = method.erase(view, SIX, planted_services(view))
    found = Rehearsal(seconds_of_step=1.0)
    with training_session(TrainingSession(rehearsal=found)):
        edit = method.erase(view, SIX, planted_services(view))
    assert found.steps == len(taken)
    assert found.taken <= 2 * len({one.name for one in taken})
    assert (edit.names, edit.parameters) == (real.names, real.parameters)
    assert weights(view) == before


class Clock:
    """Seconds that pass only when something takes them."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def take(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(session, "time", clock)
    return clock


def test_steps_that_are_left_out_take_as_long_as_those_that_were_taken(clock) -> None:
    """But for the first one, which warms up."""
    seconds = iter([9.0, 1.0])
    found = Rehearsal()
    assert found.take_steps(100, lambda: clock.take(next(seconds))) == 2
    assert found.left_out == 98 * 1.0
    assert (found.steps, found.taken) == (100, 2)


def test_quick_steps_are_taken_until_they_tell_enough(clock) -> None:
    found = Rehearsal()
    assert found.take_steps(100, lambda: clock.take(0.5)) == 4
    assert found.take_steps(100, lambda: clock.take(0.001)) == 24
    assert found.take_steps(3, lambda: clock.take(0.001)) == 3


def test_a_search_inside_a_step_belongs_to_it(clock) -> None:
    found, inner = Rehearsal(), []

    def step() -> None:
        assert found.take_steps(10, lambda: inner.append(clock.take(0.1))) == 10

    assert found.take_steps(50, step) == 2
    assert (found.steps, len(inner)) == (50, 20)
    assert found.left_out == pytest.approx(48 * 1.0)


def test_a_stock_is_shared_by_the_steps_that_use_it(clock) -> None:
    """It is made in 5 parts, of which one is made, and serves 20 steps of 2 rows."""
    found = Rehearsal()

    def step() -> None:
        if not clock.now:
            with found.stocking(step, rows=40, times=5):
                clock.take(4.0)
        found.use(step, 2)
        clock.take(1.0)

    taken = found.take_steps(20, step)
    assert taken == 2
    assert found.left_out == pytest.approx(18 * (1.0 + 20.0 / 20) + taken * 20.0 / 20)


def test_after_long_trainings_no_further_steps_are_taken(clock) -> None:
    """They count as those before; but if every step is long, one is taken at least."""
    found = Rehearsal()
    assert found.take_steps(5, lambda: clock.take(30.0)) == 1
    assert found.take_steps(5, lambda: clock.take(30.0)) == 0
    assert found.left_out == 9 * 30.0


def test_one_picture_stands_for_all() -> None:
    found, asked = Rehearsal(seconds_of_step=2.0), []

    def draw(part: slice, steps: int) -> torch.Tensor:
        asked.append((part, steps))
        return torch.rand(part.stop, 3, 4, 4)

    assert found.draw(8, 50, draw).shape == (8, 3, 4, 4)
    assert asked == [(slice(0, 1), 1)]
    assert (found.pictures, found.left_out) == (8, 399 * 2.0)


def test_pictures_before_a_training_are_told_one_by_one() -> None:
    view, told = tiny.view("sd1"), []
    with training_session(TrainingSession(on_images=lambda *given: told.append(given))):
        generate_images(view, ["a dog"] * 10, range(10), 2, 3.0)
    assert {of for _, of in told} == {10}
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert (told[0][0], told[-1][0]) == (4, 10)
