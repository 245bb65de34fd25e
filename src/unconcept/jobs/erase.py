"""The main job: edit a model, check the edit, draw before and after from the same noise, judge, report."""

import shutil
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..core.output_folder import atomic_folder
from ..core.output_lock import output_lock
from ..core.progress import ProgressCallback, ignore_progress
from ..edits import Edit, origin_of
from ..erasing.edit_notes import edit_notes
from ..erasing.failure_checks import picture_failures, weight_failures
from ..erasing.make_edit import make_edit, train_in_folder
from ..erasing.request_defaults import ResolvedRequest
from ..evaluation.judging.choice import announce_judge
from ..evaluation.judging.evidence import SuiteFigure
from ..evaluation.judging.judge import Judge
from ..evaluation.suites.registry import Suite
from ..evaluation.tasks.edited_model import EditedModel
from ..evaluation.tasks.runner import RECORD_FILE, TaskRecord
from ..evaluation.trials.bench import suite_figures
from ..evaluation.trials.finding import Finding
from ..evaluation.trials.pages import PicturePairs, write_edit_card, write_pages, write_samples
from ..evaluation.trials.report import Report, write_data, write_run
from ..evaluation.trials.trial import AnsweredTrial, RunContext, Trial, answer_trials, image_pairs
from ..methods import methods
from ..models import ModelView
from ..report.environment import run_environment
from ..training.distributed import process_state
from ..training.options import changed_options
from .erase_job import Job, judge_of, open_erasure, open_services, suite_of, suite_of_debias
from .places.stores import run_store
from .privacy import may_keep_pictures, why_no_pictures


@dataclass(frozen=True)
class EraseOutcome:
    """The result of `erase`: report, edit and failures."""

    report: Report
    chosen: ResolvedRequest
    failures: tuple[str, ...]
    edit: Edit
    out: Path
    """The folder that was written."""


def erase(job: Job, progress: ProgressCallback = ignore_progress) -> EraseOutcome | None:
    """Edit the model, check, draw, judge and write the folder. Bad input raises `UsageError` before any writing.

    If several processes train together, only the first draws, judges and writes; the others return None.
    """
    with ExitStack() as lock:
        return _erase_locked(job, progress, lock)


def _erase_locked(job: Job, progress: ProgressCallback, lock: ExitStack) -> EraseOutcome | None:
    started = time.perf_counter()
    opened = open_erasure(job)
    unedited, chosen, model = opened.unedited, opened.chosen, opened.unedited.base()
    leads = process_state(model.device).is_main_process
    progress = progress if leads else ignore_progress
    if leads:  # The state of a training is beside the folder.
        lock.enter_context(output_lock(job.out))
    progress("edit", 0, 1)
    settings, services = dict(job.settings or {}), open_services(job, opened.info, model, chosen, progress)
    with train_in_folder(_training(job), progress, job.options):
        edit = make_edit(model, chosen, job.method, settings, services, opened.regularisers)
    if not leads:
        return None
    edit = at_strength(edit, model, chosen, job.strength)
    chosen = replace(chosen, reasons={**chosen.reasons, **edit_notes(edit, model)})
    seconds = {"edit": time.perf_counter() - started}
    progress("edit", 1, 1)
    with atomic_folder(job.out, _identity(job, edit), job.overwrite) as folder:
        trial = _save_edit(job, chosen, unedited, edit, seconds["edit"], folder)
        answered = _answer(job, chosen, trial, folder, progress)
        seconds |= {**answered.seconds, "total": time.perf_counter() - started}
        report = _report(job, chosen, model, answered, seconds)
        _write(job, report, answered.pictures, folder)
    shutil.rmtree(_training(job), ignore_errors=True)
    return EraseOutcome(report, chosen, report.failures, edit, job.out)


def at_strength(edit: Edit, model: ModelView, chosen: ResolvedRequest, strength: float) -> Edit:
    """Scale the edit to its strength, with figures of its effect at that strength."""
    if strength == 1.0:
        return edit
    scaled = edit.scaled(strength, amplify=True)  # The job was checked.
    made = origin_of(scaled)
    return scaled.stamped(replace(made, report={**made.report, **scaled.effect(model, chosen.request)}))


def _identity(job: Job, edit: Edit) -> dict[str, object]:
    """What identifies a run: an interrupted run with the same identity continues from its state."""
    return {
        "edit": edit.hash,
        "sizes": str(job.sizes),
        "spec": str(job.spec),
        "report": job.report,
        "model": job.model,
    }


def _save_edit(
    job: Job, chosen: ResolvedRequest, unedited: EditedModel, edit: Edit, seconds: float, folder: Path
) -> Trial:
    """Write the edit, and record its cost."""
    path = folder / "edit.safetensors"
    edit.save(path)
    cost = {"seconds": round(seconds, 3), "bytes": path.stat().st_size, "parameters": edit.parameters}
    names = tuple(concept.name for concept in chosen.concepts)
    return Trial(job.method, names, EditedModel.of(unedited, path), edit, cost)


@dataclass(frozen=True)
class _Answers:
    """Results from pictures of an edit; empty without a report."""

    suite: Suite
    judge: Judge | None
    answered: AnsweredTrial
    pictures: PicturePairs = field(default_factory=dict)
    figures: tuple[SuiteFigure, ...] = ()
    failed: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    """Who judged, or why nobody did."""


def _answer(job: Job, chosen: ResolvedRequest, trial: Trial, folder: Path, progress: ProgressCallback) -> _Answers:
    """Draw before and after from the same noise, and judge."""
    edit = trial.edit
    suite = suite_of(job, chosen) if methods[job.method].does != "debias" else suite_of_debias(job, chosen, edit)
    judge = judge_of(job, trial.subject.unedited, suite)
    if not job.report:
        return _Answers(suite, judge, AnsweredTrial(trial, (), ()))
    notes = announce_judge(judge, 2 * len(suite.checks(trial.concepts)), progress)
    keeps = may_keep_pictures([chosen.request.kind], job.store_pictures)
    with run_store(job.store, folder, keeps) as store:
        context = RunContext(store, TaskRecord(folder / RECORD_FILE), job.spec, judge, tell=progress)
        (answered,), tally = answer_trials([trial], suite, context)
        pictures = image_pairs(trial, answered.prompts, context)
        return _Answers(
            suite,
            judge,
            answered,
            pictures if keeps else {},
            suite_figures(answered, suite, context),
            (*tally.failed, *picture_failures(pictures)),
            context.record.seconds(),
            notes,
        )


def _report(
    job: Job, chosen: ResolvedRequest, model: ModelView, found: _Answers, seconds: Mapping[str, float]
) -> Report:
    trial = found.answered.trial
    return Report(
        [Finding(found.answered, (), found.figures)],
        found.suite,
        job.spec,
        found.judge,
        run_environment(model, seconds, changed_options(job.options)),
        (*weight_failures(trial.edit, job.strength), *found.failed),
        0,
        {**chosen.reasons, **_warnings(job, chosen), **found.notes},
        job.recipe,
    )


def _warnings(job: Job, chosen: ResolvedRequest) -> dict[str, str]:
    """What a reader of the report must know beside the reasons of the request."""
    told = why_no_pictures(may_keep_pictures([chosen.request.kind], job.store_pictures))
    crowd, count = methods[job.method].crowded_from, len(chosen.concepts)
    if crowd is not None and count >= crowd and not chosen.request.retain:
        told["crowd"] = (
            f"{job.method} erases {count} concepts at once and nothing is retained: from {crowd} on it was measured to"
            " cost other concepts too; name what must stay with --retain or --retain-file"
        )
    return told


def _write(job: Job, report: Report, pictures: PicturePairs, folder: Path) -> None:
    """Write the report's files into the folder."""
    write_run(report, folder)
    if job.report:
        write_data(report, folder)
        write_pages(report, [pictures], folder)
        write_edit_card(report, folder)
        write_samples(report.findings[0], pictures, folder)
    (folder / RECORD_FILE).unlink(missing_ok=True)


def _training(job: Job) -> Path:
    """Folder for the training state until the edit is made, beside the output folder.

    A different training refuses to continue from it.
    """
    return job.out.resolve().with_name(f".{job.out.name}.training")
