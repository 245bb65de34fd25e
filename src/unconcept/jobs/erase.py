"""The main job: edit a model, check the edit, draw before and after from the same noise, judge, report."""

import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import KW_ONLY, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..core.errors import require
from ..core.output_folder import atomic_folder, require_free_output
from ..core.output_lock import output_lock
from ..core.progress import ProgressCallback, ignore_progress
from ..core.request import RequestSpec
from ..core.settings import build_settings
from ..edits import Edit, origin_of
from ..edits.base import validate_strength
from ..erasing.edit_notes import edit_notes
from ..erasing.failure_checks import picture_failures, weight_failures
from ..erasing.make_edit import make_edit, train_in_folder
from ..erasing.request_defaults import ResolvedRequest
from ..evaluation.judging.choice import announce_judge, choose_judge
from ..evaluation.judging.evidence import SuiteFigure
from ..evaluation.judging.judge import Judge, judge_for_methods
from ..evaluation.judging.live import PresenceRate, open_attribute_counter
from ..evaluation.sampling import DrawSpec
from ..evaluation.suites.registry import Suite, suites
from ..evaluation.tasks.edited_model import EditedModel
from ..evaluation.tasks.picture_store import PictureStore, default_store
from ..evaluation.tasks.runner import RECORD_FILE, TaskRecord
from ..evaluation.trials.bench import suite_figures
from ..evaluation.trials.finding import Finding
from ..evaluation.trials.pages import PicturePairs, write_edit_card, write_pages, write_samples
from ..evaluation.trials.report import Report, write_data, write_run
from ..evaluation.trials.trial import AnsweredTrial, RunContext, Trial, answer_trials, image_pairs
from ..evaluation.worlds import world_of
from ..methods import MethodServices, methods
from ..methods.registry import MethodInfo
from ..models import ModelView
from ..models.text.text_identity import TokenTextKey
from ..prompts.checks import Check, GroupSizes
from ..prompts.safety import require_drawable
from ..report.environment import run_environment
from ..training.distributed import process_state
from ..training.options import DEFAULT_TRAINING_OPTIONS, TrainingOptions, changed_options
from ..training.regularisers import Regularisers, build_regularisers
from .options import ModelOptions, OverwriteOptions, StrengthOptions
from .privacy import may_keep_pictures, run_store, why_no_pictures


@dataclass(frozen=True)
class Job(ModelOptions, StrengthOptions, OverwriteOptions):
    """A complete erasure job; `plan_job` makes it from options, recipe and defaults."""

    ask: RequestSpec
    out: Path
    method: str = "uce"
    settings: Mapping[str, Any] | None = None
    """Settings of the method; None for its defaults."""
    _: KW_ONLY
    regularisers: Mapping[str, Any] = field(default_factory=dict)
    """Regularisers of a trained method."""
    report: bool = True
    """Whether pictures are drawn and judged."""
    judge: str | None = None
    """NAME or NAME=PATH; an embedded model has its own."""
    method_judge: str | None = None
    """NAME or NAME=PATH: the judge that the method may ask while it works; never the one that grades."""
    sizes: GroupSizes = GroupSizes()
    spec: DrawSpec = DrawSpec()
    options: TrainingOptions = DEFAULT_TRAINING_OPTIONS
    """Training options of a trained method."""
    recipe: str | None = None
    store: Path | None = None
    store_pictures: bool = False
    """Whether pictures of an explicit concept stay too."""


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
    info, regularisers = _check(job)
    unedited = EditedModel(job.model, device=job.device, dtype=job.dtype)
    folds_case = TokenTextKey.of(unedited.base()).folds_case
    chosen = world_of(job.model).request(job.ask, info.does, folds_case)
    if job.report:
        require_drawable(chosen.request.targets)
    if info.does == "erase" and (named := _judge(job, unedited, _suite(job, chosen))):
        named.open()  # Open the judge first, so that a missing one fails before training.
    model = unedited.base()
    leads = process_state(model.device).is_main_process
    progress = progress if leads else ignore_progress
    if leads:  # The state of a training is beside the folder.
        lock.enter_context(output_lock(job.out))
    progress("edit", 0, 1)
    settings, services = dict(job.settings or {}), open_services(job, info, model, chosen, progress)
    with train_in_folder(_training(job), progress, job.options):
        edit = make_edit(model, chosen, job.method, settings, services, regularisers)
    if not leads:
        return None
    edit = _at_strength(edit, model, chosen, job.strength)
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


def _check(job: Job) -> tuple[MethodInfo, Regularisers]:
    """Look up the method and its regularisers; `UsageError` if options do not fit together."""
    require_free_output(job.out, job.overwrite)
    validate_strength(job.strength, job.amplify)
    info = methods[job.method]
    build_settings(info.settings, job.settings or {}, f"{job.method} setting")
    message = (
        f"{', '.join(changed_options(job.options))}: only for trained methods, and {job.method} is"
        f" {info.mechanism}: leave it out"
    )
    require(info.mechanism == "trained" or not changed_options(job.options), message)
    asks = {"attribute_counter", "presence_judge"} & {*info.uses}
    require(
        bool(asks) or not job.method_judge, f"method judge {job.method_judge!r}: {job.method} asks none: leave it out"
    )
    return info, build_regularisers(job.regularisers, info.mechanism, job.method)


def _at_strength(edit: Edit, model: ModelView, chosen: ResolvedRequest, strength: float) -> Edit:
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
    suite = _suite(job, chosen) if methods[job.method].does == "erase" else _suite_of_debias(job, chosen, edit)
    judge = _judge(job, trial.subject.unedited, suite)
    if not job.report:
        return _Answers(suite, judge, AnsweredTrial(trial, (), ()))
    notes = announce_judge(judge, 2 * len(suite.checks(trial.concepts)), progress)
    keeps = may_keep_pictures([chosen.request.kind], job.store_pictures)
    with run_store(job.store, folder, keeps) as store:
        context = RunContext(store, TaskRecord(folder / RECORD_FILE), job.spec, judge, tell=progress)
        (answered,), tally = answer_trials([trial], suite, context)
        pictures = image_pairs(trial, answered.checks, context)
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


def open_services(
    job: Job, info: MethodInfo, model: ModelView, chosen: ResolvedRequest, progress: ProgressCallback = ignore_progress
) -> MethodServices:
    """Open what the method uses while it works. No service asks the judge that grades."""
    suite, store = _suite(job, chosen), PictureStore(job.store or default_store())

    def checks_of(sizes: GroupSizes) -> list[Check]:
        return replace(suite, sizes=sizes).checks(job.ask.targets)

    counter = presence = None
    if "attribute_counter" in info.uses:
        counter = open_attribute_counter(
            model, _method_judge(job), job.spec, store, chosen.request.kind, job.sizes.seed, progress
        )
    if "presence_judge" in info.uses and (judge := _method_judge(job, suite.checks(job.ask.targets))):
        presence = PresenceRate(model, judge, checks_of, job.spec, store, job.sizes.seed, progress)
    return MethodServices(counter, presence, world_of(job.model).vision_towers)


def _method_judge(job: Job, checks: Sequence[Check] = ()) -> Judge | None:
    """The judge that the method may ask; a judge that answers with texts chooses among the checks' labels."""
    grading = world_of(job.model).judge if job.judge is None else Judge.parse(job.judge)
    named = judge_for_methods(Judge.parse(job.method_judge) if job.method_judge else None, grading)
    return None if named is None else named.with_labels((), checks)


def _judge(job: Job, unedited: EditedModel, suite: Suite) -> Judge | None:
    """The judge of the report; one that answers with texts chooses among the request's texts and the suite's labels."""
    judge = choose_judge(job.judge, world_of(job.model).judge, unedited)
    targets = job.ask.targets
    if judge is None:
        return None
    return judge.with_labels((*targets, *(job.ask.retain or ())), suite.checks(targets), targets)


def checks_of(job: Job, chosen: ResolvedRequest) -> list[Check]:
    """The checks of an erasure, without those of debiasing, which depend on the finished edit."""
    is_erasure = methods[job.method].does == "erase"
    return _suite(job, chosen).checks([concept.name for concept in chosen.concepts]) if is_erasure else []


def _suite(job: Job, chosen: ResolvedRequest) -> Suite:
    return world_of(job.model).erasure_suite(chosen.concepts, chosen.request.retain, job.sizes)


def _suite_of_debias(job: Job, chosen: ResolvedRequest, edit: Edit) -> Suite:
    asked = world_of(job.model).suite(suites["debias"], chosen.concepts, chosen.request.retain, [origin_of(edit)])
    return replace(asked, sizes=job.sizes)
