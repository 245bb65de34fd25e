"""A long run says how many pictures it draws, and about how long that takes, before it writes anything."""

import pytest

from unconcept.cli.evaluate import announce_run
from unconcept.jobs.command_options import BenchOptions
from unconcept.jobs.evaluate import evaluate, plan_bench
from unconcept.jobs.evaluate_job import EvaluationRun, open_run
from unconcept.jobs.plans import forecast as forecasts
from unconcept.jobs.plans.timing import DrawTime


@pytest.fixture
def run(tmp_path, monkeypatch) -> EvaluationRun:
    """It would take 0.5 seconds a picture."""
    monkeypatch.setattr(forecasts, "time_drawing", lambda *given: DrawTime(8, 4.0, 0.0))
    options = BenchOptions(concepts=("pizza",), methods="uce,esd", suite="smoke", limit=1, out=tmp_path / "out")
    return plan_bench(options)


class Stopped(Exception):
    """Before anything is drawn."""


def test_it_comes_first(run, tmp_path, monkeypatch) -> None:
    opened, told = open_run(run), []
    prompts = len(opened.suite.prompts(("pizza",)))
    assert forecasts.forecast(opened) is None, "a short run says nothing"
    assert forecasts.forecast(opened, erasures=19).edits == 2 + 19, "a search for forget sets is none"
    monkeypatch.setattr(forecasts, "LONG_PICTURES", 3 * prompts)
    found = forecasts.forecast(opened)
    assert (found.pictures, found.seconds, found.edits) == (3 * prompts, 1.5 * prompts, 2)

    def announce(opened) -> None:
        announce_run(opened, lambda *given: told.append(given))
        raise Stopped

    with pytest.raises(Stopped):
        evaluate(run, announce=announce)
    line = f"about {1.5 * prompts:.0f} s on this device, besides 2 edits to make: {3 * prompts} pictures to draw"
    assert told == [(line, 1, 1)]
    assert not list(tmp_path.glob("*out*"))
