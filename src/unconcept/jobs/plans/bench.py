"""The edits that a bench would make."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...core.errors import UnconceptError
from ...edits import Edit, open_edit
from ...evaluation.tasks.edit_task import EditTask
from ...evaluation.tasks.remote_files import local_folder
from ...evaluation.trials.filters import FILTERS, trial_of_filter
from ...evaluation.trials.trial import Trial
from ..evaluate_job import OpenRun
from .facts import edit_bytes
from .plan import PlannedStep
from .rehearsals import RehearsedEdit, rehearse_task


@dataclass(frozen=True)
class MadeEdits:
    """The edits that would be made."""

    steps: tuple[PlannedStep, ...]
    trials: tuple[Trial, ...]
    """The edits under test: rehearsed ones, or those in the store."""
    count: int
    bytes: int


def rehearse_edits(opened: OpenRun, cost_of_step: float) -> MadeEdits:
    """Rehearse each method once for requests of the same kind and size; edits in the store are not made again."""
    run, store = opened.run, local_folder(opened.run.store)
    made = [one for one in run.variants if one.method not in FILTERS]
    tasks = [EditTask(opened.unedited, one, names, run.out) for one in made for names in run.requests]
    known: dict[tuple[str, str, int], RehearsedEdit | str] = {}
    steps, trials = dict[str, list[PlannedStep]](), []
    for task in tasks:
        own = steps.setdefault(task.variant.label, [])
        kept = task.stored_path(store)
        if kept.with_suffix(".json").exists():
            own.append(PlannedStep("", 0.0, "in the store"))
            trials.append(_trial(task, open_edit(kept)))
            continue
        request = task.chosen.request
        like = (task.variant.label, request.kind, len(request.targets))
        if like not in known:
            known[like] = _rehearsed(task, cost_of_step)
        found = known[like]
        if isinstance(found, str):
            own.append(PlannedStep("", None, found))
        else:
            own.append(found.step(""))
            trials += [] if found.edit is None else [_trial(task, found.edit)]
    for one in (one for one in run.variants if one.method in FILTERS):
        trials += [trial_of_filter(one.method, names, opened.unedited, opened.judge) for names in run.requests]
    joined = tuple(_joined(label, own) for label, own in steps.items())
    return MadeEdits(joined, tuple(trials), len(tasks), sum(edit_bytes(trial.edit) or 0 for trial in trials))


def _rehearsed(task: EditTask, cost_of_step: float) -> RehearsedEdit | str:
    """The rehearsed edit, or why it would fail: a bench goes on without it."""
    try:
        return rehearse_task(task, cost_of_step)
    except UnconceptError as error:
        return f"it would fail: {error}"


def _trial(task: EditTask, edit: Edit) -> Trial:
    subject = replace(task.subject, edit_path=str(task.path), edit_hash=edit.hash)
    return Trial(task.variant.label, task.concepts, subject, edit)


def _joined(label: str, steps: Sequence[PlannedStep]) -> PlannedStep:
    """One step for all edits of a method."""
    told = dict.fromkeys(step.what for step in steps if step.what)
    known = [step.seconds for step in steps if step.seconds is not None]
    basis = "; ".join(dict.fromkeys(step.basis for step in steps))
    what = f"make {len(steps)} edits with {label}" + f": {'; '.join(told)}" * bool(told)
    return PlannedStep(what, sum(known) if known else None, basis)
