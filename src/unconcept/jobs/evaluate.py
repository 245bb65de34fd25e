"""Evaluates finished edits, or benchmarks methods on concepts; writes a folder with report, data and tables."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..core.errors import SettingsError, require
from ..core.escapes import file_name_text
from ..core.output_folder import PARTIAL_FILE, atomic_folder
from ..core.progress import ProgressCallback, ignore_progress
from ..erasing.failure_checks import picture_failures
from ..evaluation.attacks.inputs import copy_adversarial
from ..evaluation.judging.choice import announce_judge, judge_caveat
from ..evaluation.tasks.picture_store import PictureStore
from ..evaluation.tasks.runner import RECORD_FILE, TaskRecord, TaskTally
from ..evaluation.tasks.task import Executor
from ..evaluation.trials.bench import examine_trials, run_bench
from ..evaluation.trials.filters import FILTERS, NoEdit
from ..evaluation.trials.finding import Finding, missing_results, notes_of
from ..evaluation.trials.pages import PicturePairs, write_pages, write_tables
from ..evaluation.trials.report import Report, write_data, write_run
from ..evaluation.trials.trial import RunContext, image_pairs
from ..methods import methods
from ..report.environment import run_environment
from ..report.forget_set_data import ForgetSetsData
from .command_options import AttackOptions, BenchOptions, EvaluateOptions
from .evaluate_job import EvaluationRun, OpenRun, open_run
from .options import paths, texts
from .places.executors import run_executor
from .places.stores import run_store
from .privacy import may_keep_pictures, why_no_pictures
from .resolve import values_for

LADDER = "ladder"  # in place of an attack's name: all rungs of the ladder


def plan_evaluation(options: EvaluateOptions) -> EvaluationRun:
    """Make the job of `unconcept evaluate` from its options."""
    return _planned(options, edits=paths(options.edits))


def plan_attack(options: AttackOptions) -> EvaluationRun:
    """Make the job of `unconcept attack`; it also attacks the unedited model, for comparison."""
    message = "strength 0: nothing of the edit is left to attack; give another, or leave --strength out"
    require(options.strength != 0, message, SettingsError)
    edits, rungs = paths(options.edits), texts(options.rungs)
    if options.name == LADDER:
        message = f"the ladder climbs for one concept at a time, not for {len(options.names)}: name one"
        require(len(options.names) == 1, message, SettingsError)
        more: dict[str, object] = {"rungs": rungs, "control": options.control}
    else:
        message = f"--rung and --control are of the ladder, not of {options.name}: unconcept attack {LADDER} ..."
        require(not rungs and options.control is None, message, SettingsError)
        more = {"attacks": ("*",) if options.name == "all" else (options.name,), "rungs": None}
    return _planned(options, edits=edits, suite="attack", **more)


def plan_bench(options: BenchOptions) -> EvaluationRun:
    """Make the job of `unconcept bench` from its options."""
    if options.methods == "all":
        names = [name for name in methods if methods[name].erases_unwatched]
    else:
        named = [name.strip() for name in options.methods.split(",")]
        names = [name if name in FILTERS else methods[name].name for name in named]
    return _planned(options, methods=tuple(names), edits=paths(options.edits))


def _planned(options: EvaluateOptions | AttackOptions | BenchOptions, **more: Any) -> EvaluationRun:
    """Make a job from the options of a command, and what is made of them."""
    more = {"concepts": options.names, "measures": texts(options.measures), **more}
    return EvaluationRun(**{**values_for(EvaluationRun, options), **more})


@dataclass(frozen=True)
class Measured:
    """What a run found."""

    findings: Sequence[Finding]
    tally: TaskTally
    planned: int
    """Trials that it should have."""
    forget_sets: ForgetSetsData | None = None


def evaluate(
    run: EvaluationRun,
    progress: ProgressCallback = ignore_progress,
    announce: Callable[[OpenRun], None] = lambda opened: None,
) -> Report:
    """Run an evaluation, or continue an interrupted one. `announce` is called before anything is written or drawn.

    If results are missing, the report is PARTIAL and the same command continues.
    """
    opened = open_run(run)
    announce(opened)
    return measure(opened, _examined, progress)


def _examined(opened: OpenRun, folder: Path, context: RunContext) -> Measured:
    """Make the run's edits, and examine them beside the finished ones."""
    run = opened.run
    found, tally = run_bench(run.variants, run.requests, opened.suite, opened.unedited, folder, context)
    finished, more = examine_trials(opened.trials, opened.suite, context)
    return Measured([*found, *finished], tally + more, len(run.variants) * len(run.requests) + len(opened.trials))


def measure(
    opened: OpenRun,
    examine: Callable[[OpenRun, Path, RunContext], Measured],
    progress: ProgressCallback = ignore_progress,
) -> Report:
    """Examine what was opened, and write the report; an interrupted run with the same identity goes on."""
    begun = time.perf_counter()
    run, unedited, suite, judge = opened.run, opened.unedited, opened.suite, opened.judge
    keeps = may_keep_pictures([origin.kind for origin in opened.origins], run.store_pictures)
    reasons = opened.notes | why_no_pictures(keeps) | announce_judge(judge, opened.judged_pictures, progress)
    with atomic_folder(run.out, opened.identity, run.overwrite) as folder, ExitStack() as stack:
        store = stack.enter_context(run_store(run.store, folder, keeps))
        executor = stack.enter_context(run_executor(run, store, progress))
        context = _context(opened, store, folder, executor, progress)
        measured = examine(opened, folder, context)
        found, tally = measured.findings, measured.tally
        seconds = {**context.record.seconds(), "total": time.perf_counter() - begun}
        answered = [finding.answered_trial for finding in found]
        pictures = [image_pairs(one.trial, one.prompts, context) for one in answered]
        failures = (*tally.failed, *_collapsed(found, pictures))
        conditions = run_environment(unedited.base(), seconds)
        missing = missing_results(measured.planned, found, pictures, judge is not None)
        pooled = suite.pool([(finding.label, finding.concepts, finding.figures) for finding in found])
        told = {**reasons, **notes_of(found), **pooled}
        report = Report(found, suite, opened.spec, judge, conditions, failures, missing, told)
        report = replace(report, forget_sets=measured.forget_sets)
        _write(run, report, pictures if keeps else (), folder)
        _mark(folder, finished=not report.missing and not tally.failed)
    return report


def _context(
    opened: OpenRun, store: PictureStore, folder: Path, executor: Executor | None, progress: ProgressCallback
) -> RunContext:
    run = opened.run
    return RunContext(
        store,
        TaskRecord(folder / RECORD_FILE),
        opened.spec,
        opened.judge,
        run.workers,
        None if run.max_minutes is None else time.monotonic() + 60 * run.max_minutes,
        progress,
        opened.control,
        run.references,
        executor,
    )


def _collapsed(found: Sequence[Finding], pictures: Sequence[PicturePairs]) -> list[str]:
    """List edits whose pictures are degenerate; the evaluation still reports their rates. Filters give blank ones."""
    return [
        f"{finding.answered_trial.trial.label}: {line}"
        for finding, sides in zip(found, pictures, strict=True)
        for line in (() if isinstance(finding.answered_trial.trial.edit, NoEdit) else picture_failures(sides))
    ]


def _write(run: EvaluationRun, report: Report, pictures: Sequence[PicturePairs], folder: Path) -> None:
    """Write the report's files into the folder."""
    write_run(report, folder)
    write_data(report, folder)
    if run.variants and report.findings:
        write_tables(report.findings, folder, judge_caveat(report.judge))
    write_pages(report, pictures, folder)
    for number, finding in enumerate(report.findings if pictures else ()):
        label = file_name_text(finding.answered_trial.trial.label)
        for i, (name, file) in enumerate(finding.adversarial_files):
            copy_adversarial(file, folder / "found" / f"{number:02d}-{label}-{name}-{i}.safetensors")


def _mark(folder: Path, finished: bool) -> None:
    """Remove the run's state if it is finished; else mark the folder as partial."""
    (folder / PARTIAL_FILE).unlink(missing_ok=True)
    if finished:
        (folder / RECORD_FILE).unlink()
    else:
        (folder / PARTIAL_FILE).write_text("run the same command again to continue\n", encoding="utf-8")
