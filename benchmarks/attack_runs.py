"""Attacks that are run for the tables, cell by cell: what is left, how long it takes, and the runs themselves."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.attack_cells import SUITE, Cell, asked_hash, cell_of, keep_cells
from benchmarks.attacked_edits import AttackedEdit, MethodEdit
from benchmarks.kept import FOLDER, present_basis
from benchmarks.whole import whole_or_exit
from benchmarks.workload import seconds_of_edit
from unconcept.cli.console import exit_codes, progress

if TYPE_CHECKING:
    from unconcept.evaluation.tasks.runner import TaskTally
    from unconcept.evaluation.trials.ladder import PlannedRung
    from unconcept.evaluation.trials.trial import AnsweredTrial, RunContext, Trial


@dataclass(frozen=True)
class AttackWork:
    """Rungs that are to be tried on one edit."""

    edit: AttackedEdit
    rungs: tuple[str, ...]
    model: str

    @property
    def batches(self) -> list[tuple[str, ...]]:
        """Its rungs by what they cost: their searches run together, and are kept together."""
        from unconcept.evaluation.attacks.ladder import known_rungs

        grouped: dict[str, list[str]] = {}
        for name, rung in known_rungs().items():
            if name in self.rungs:
                grouped.setdefault(rung.cost, []).append(name)
        return [tuple(names) for names in grouped.values()]


@dataclass(frozen=True)
class Outcome:
    """What became of some work."""

    failures: tuple[str, ...] = ()
    missing: int = 0


def run(todo: Sequence[AttackWork], max_minutes: float | None, out: Path, folder: Path = FOLDER) -> None:
    """Try everything that is to be tried, and keep each cell; `SystemExit` if something is missing in the end."""
    from unconcept.core.output_folder import default_store
    from unconcept.evaluation.tasks.picture_store import PictureStore
    from unconcept.evaluation.tasks.runner import TaskRecord
    from unconcept.evaluation.trials.trial import RunContext
    from unconcept.evaluation.worlds import world_of

    out.mkdir(parents=True, exist_ok=True)
    deadline = None if max_minutes is None else time.monotonic() + 60 * max_minutes
    outcomes = []
    with exit_codes(), progress(quiet=False) as tell:
        for work in todo:
            world, store = world_of(work.model), PictureStore(default_store())
            record = TaskRecord(out / "record.sqlite")
            context = RunContext(store, record, world.draw_spec(None), world.judge, None, deadline, tell)
            outcomes.append(_try_work(work, out, context, folder))
    whole_or_exit(outcomes)


def _try_work(work: AttackWork, out: Path, context: "RunContext", folder: Path) -> Outcome:
    if context.deadline is not None and time.monotonic() > context.deadline:
        return Outcome(missing=len(work.rungs))
    trial = work.edit.trial(out, context)
    if trial is None:
        errors = [f"{work.edit.label}: {error}" for _, error in context.record.failures().values()]
        return Outcome(tuple(errors), len(work.rungs))
    failures, basis, count = list[str](), present_basis(work.model), 0
    for names in work.batches:
        cells, tally = try_rungs(work.edit, trial, names, work.model, context)
        keep_cells(cells, basis, work.model, folder)
        failures += [f"{work.edit.label}, {line}" for line in tally.failed]
        count += len(cells)
    return Outcome(tuple(failures), len(work.rungs) - count)


def try_rungs(
    edit: AttackedEdit, trial: "Trial", names: Sequence[str], model: str, context: "RunContext"
) -> "tuple[list[Cell], TaskTally]":
    """Try some rungs on one edit; the cells of those that are finished."""
    from unconcept.evaluation.suites.registry import suites
    from unconcept.evaluation.tasks.runner import default_workers, run_tasks
    from unconcept.evaluation.trials.bench import ladder_on_trial
    from unconcept.evaluation.trials.trial import answer_trials

    suite = replace(suites[SUITE], attacks=(), rungs=tuple(names))
    (answered,), tally = answer_trials([trial], suite, context)
    planned = ladder_on_trial(trial, suite, context.spec, context.judge, context.control)
    tasks = list({task.id: task for part in planned for task in part.tasks}.values())
    fresh = [task for task in tasks if not task.is_done(context.store)]
    workers = default_workers(100 * len(fresh), str(trial.subject.base().device))
    tally += run_tasks(tasks, context.store, context.record, workers, context.deadline, context.tell)
    whole = [part for part in planned if all(task.is_done(context.store) for task in part.tasks)]
    if answered.missing:
        return [], tally
    return [_cell(edit, part, answered, model, context) for part in whole], tally


def _cell(
    edit: AttackedEdit,
    part: "PlannedRung",
    answered: "AnsweredTrial",
    model: str,
    context: "RunContext",
) -> Cell:
    from unconcept.evaluation.attacks.rates import attack_rows
    from unconcept.evaluation.trials.ladder import ladder_data

    checks = [answer.check for answer in answered.answers if answer.check.group == "direct"]
    data = ladder_data([part], answered, checks, context.store, None)
    shown = [answer.hits[1] for answer in answered.answers if answer.check.group == "direct"]
    rows = attack_rows(part.own, part.ceilings, shown, context.store) if part.own else []
    hashes = edit.made, asked_hash(part.rung.name, edit.concept, model)
    names = edit.label, part.rung.name, edit.concept
    results = [json.loads(task.path(context.store).read_text(encoding="utf-8")) for task in part.tasks]
    taken = sum(sum(result["seconds"].values()) for result in results)
    return cell_of(names, hashes, data.rungs[0], rows[0] if rows else None, taken)


def estimate(todo: Sequence[AttackWork], known: Sequence[Cell], model: str) -> str:
    """Cells, pictures and hours of what is left: by kept cells of the same rung, by a rehearsal of a search on a closed
    form's edit where there is none.
    """
    from unconcept.evaluation.tasks.edited_model import EditedModel
    from unconcept.evaluation.tasks.runner import default_workers

    count = sum(len(work.rungs) for work in todo)
    if not count:
        return "Nothing is left to measure."
    asked = list(dict.fromkeys(rung for work in todo for rung in work.rungs))
    seconds, pictures = _of_kept(known), dict.fromkeys(asked, 0)
    rehearsed, drawn = _rehearsed([name for name in asked if name not in seconds], todo[0].edit.concept, model)
    seconds |= rehearsed
    pictures |= _drawn_of_kept(known) | drawn
    searching = sum(seconds.get(rung, 0.0) for work in todo for rung in work.rungs)
    edits = {(work.edit.label, work.edit.concept): work.edit for work in todo}.values()
    methods = [one.variant.method if isinstance(one, MethodEdit) else "" for one in edits]
    making = sum(map(seconds_of_edit, methods))
    total = sum(pictures.get(rung, 0) for work in todo for rung in work.rungs)
    workers = default_workers(total, str(EditedModel(model).base().device))
    return (
        f"To measure: {count} cells of {len(edits)} edits, at most some {total:,} pictures on {workers}"
        f" cores: {searching / workers / 3600:.2f} hours of attacks, {making / 3600:.2f} hours of making"
        " edits by their tunings."
    )


def _of_kept(known: Sequence[Cell]) -> dict[str, float]:
    """Mean seconds of kept cells by rung."""
    grouped: dict[str, list[float]] = {}
    for cell in known:
        if not cell.reason:
            grouped.setdefault(cell.rung, []).append(cell.taken)
    return {rung: sum(own) / len(own) for rung, own in grouped.items()}


def _drawn_of_kept(known: Sequence[Cell]) -> dict[str, int]:
    """Most pictures of kept cells by rung: those of the unedited model are about as many as prompts."""
    most: dict[str, int] = {}
    for cell in known:
        if cell.spent is not None and "success" in cell.counts:
            prompts = cell.counts["success"][1]
            most[cell.rung] = max(most.get(cell.rung, 0), round((cell.spent.queries + 1) * prompts))
    return most


def _rehearsed(names: Sequence[str], concept: str, model: str) -> tuple[dict[str, float], Mapping[str, int]]:
    """Seconds and pictures of a cell of each rung, by a rehearsal of one search on a closed form's edit."""
    from unconcept.evaluation.attacks.ladder import DETACH
    from unconcept.evaluation.tasks.edit_task import variant_of_method
    from unconcept.jobs.evaluate_job import EvaluationRun, open_run
    from unconcept.jobs.plans.attacks import rehearse_attacks, search_costs
    from unconcept.jobs.plans.bench import rehearse_edits

    searched = tuple(name for name in names if name != DETACH)
    if not searched:
        return {}, {}
    variants = (variant_of_method("speed", model),)
    opened = open_run(EvaluationRun((concept,), Path(), variants=variants, suite=SUITE, rungs=searched, model=model))
    costs = search_costs(opened, 0.0)
    trials = rehearse_edits(opened, costs.draws.of_one_step).trials
    totals, _ = rehearse_attacks(trials, opened, costs)
    return (
        {name: total.seconds(costs) for name, total in totals.items()},
        {name: total.pictures for name, total in totals.items()},
    )
