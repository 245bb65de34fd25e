"""What a long evaluation says before it starts: how many pictures it draws, and about how long that takes."""

from dataclasses import dataclass
from math import ceil

from ...evaluation.tasks.remote_files import local_folder
from ...evaluation.trials.bench import attacks_on_trial, ladder_on_trial
from ...evaluation.trials.trial import Trial
from ..evaluate_job import OpenRun
from .attacks import attack_steps
from .evaluate import run_prompts
from .pictures import stored_prompts, worker_seconds, workers_for
from .timing import time_drawing

LONG_PICTURES = 200  # from which a run says how long it takes
LONG_SEARCHES = 40  # prompts that attacks search for


@dataclass(frozen=True)
class Forecast:
    """What a run would do, of which only a part of the cost is known."""

    seconds: float
    """Of drawing and of attacks on the edits that are given, on this device."""
    pictures: int
    searched: int
    """Prompts that attacks search for, on those edits and without them."""
    edits: int
    """Edits to make first, whose time is not known."""


def forecast(opened: OpenRun, erasures: int = 0) -> Forecast | None:
    """Count what a run would do, and time a few steps of it; None for a short run, which would take no longer.

    `erasures` are made besides those of its edits; a run that has some is not short.
    """
    run, model = opened.run, opened.unedited.base()
    pictures = _lacking(opened)
    searched = sum(_searched(trial, opened) for trial in opened.trials)
    if pictures < LONG_PICTURES and searched < LONG_SEARCHES and not erasures:
        return None
    workers = 1 if run.ray else workers_for(pictures, str(model.device), run.workers)
    timing = time_drawing(model, opened.spec, pictures, None, workers)
    tasks = ceil(pictures / opened.spec.batch_size)
    seconds = worker_seconds(timing.seconds(pictures, opened.spec.steps), tasks, workers)
    if searched >= LONG_SEARCHES:
        seconds += sum(step.seconds or 0.0 for step in attack_steps(opened.trials, opened, 0.0))
    return Forecast(seconds, pictures, searched, len(run.variants) * len(run.requests) + erasures)


def _lacking(opened: OpenRun) -> int:
    """The pictures that are not in the store; those of edits to make are never there, as far as is known."""
    run, store = opened.run, local_folder(opened.run.store)
    edits = [(trial.subject, run_prompts(opened, [trial.concepts])) for trial in opened.trials]
    asked = [(opened.unedited, run_prompts(opened, opened.asked)), *edits]
    known = sum(len(own) - stored_prompts(store, subject, opened.spec, own) for subject, own in asked)
    return known + len(run.variants) * sum(len(run_prompts(opened, [names])) for names in run.requests)


def _searched(trial: Trial, opened: OpenRun) -> int:
    """Prompts that attacks on a trial search for."""
    suite = opened.suite
    if suite.rungs:
        rungs = ladder_on_trial(trial, suite, opened.spec, opened.judge, opened.control)
        return sum(task.size for rung in rungs for task in rung.tasks)
    if not suite.attacks:
        return 0
    own, ceilings, _ = attacks_on_trial(trial, suite, opened.spec, opened.judge)
    return sum(task.size for task in (*own, *ceilings))
