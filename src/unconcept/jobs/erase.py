"""The main job: edit a model, check that it worked, draw before and after from the same noise, judge, report."""

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..core.errors import require
from ..core.output_folder import building, check_free
from ..core.progress import ProgressCallback, ignore_progress
from ..core.request import Ask
from ..core.settings import build
from ..edits import Edit, origin_of
from ..edits.base import checked
from ..erasing.failure_checks import picture_failures, weight_failures
from ..erasing.make_edit import Eyes, effect, make_edit, training_in
from ..erasing.request_defaults import Chosen, choose
from ..evaluation.judging.judge import Judge
from ..evaluation.judging.live import Watcher, observer
from ..evaluation.sampling import Spec
from ..evaluation.suites.from_file import suite_of_words
from ..evaluation.suites.registry import Figure, Suite, of_edits, suites
from ..evaluation.tasks.edited_model import Subject
from ..evaluation.tasks.picture_store import Store, default_store
from ..evaluation.tasks.runner import Record
from ..evaluation.trials.bench import Finding, figures_of
from ..evaluation.trials.html import write_card, write_page, write_samples
from ..evaluation.trials.report import Report, write_data, write_run
from ..evaluation.trials.trial import Answered, Bench, Trial, ask, both_sides
from ..methods import Look, Observe, methods
from ..models import ModelView
from ..models.loading import MOJI
from ..prompts.checks import Check, Sizes
from ..report.environment import circumstances
from ..training.options import USUAL, Options, changed
from ..training.precision import processes
from ..training.regularisers import regularisers_of

RECORD = "record.sqlite"


@dataclass(frozen=True)
class Job:
    """Everything `unconcept erase` may be told; None means the default."""

    ask: Ask
    out: Path
    method: str = "uce"
    settings: Mapping[str, Any] | None = None
    model: str = MOJI
    regularisers: Mapping[str, Any] = field(default_factory=dict)  # of a trained method
    device: str = "auto"
    dtype: str = "auto"
    strength: float = 1.0
    report: bool = True
    overwrite: bool = False
    judge: str | None = None  # NAME=PATH, of another model; `moji` has its own
    sizes: Sizes = Sizes()
    spec: Spec = Spec()
    options: Options = USUAL  # of a trained method's training
    recipe: str | None = None
    store: Path | None = None


@dataclass(frozen=True)
class Outcome:
    """What came out: the report, and what failed, if anything did."""

    report: Report
    chosen: Chosen
    failures: tuple[str, ...]


def erase(job: Job, progress: ProgressCallback = ignore_progress) -> Outcome | None:
    """Do the whole job. Bad input raises `UsageError` before anything is written.

    Of several processes that train together the first draws, judges and writes; None in the others.
    """
    started = time.perf_counter()
    check_free(job.out, job.overwrite)
    checked(job.strength)
    info, settings = methods[job.method], dict(job.settings or {})
    build(info.settings, settings, f"{job.method} setting")
    message = f"{', '.join(changed(job.options))}: only trained methods take it, and {job.method} is {info.way}: leave it out"
    require(info.way == "trained" or not changed(job.options), message)
    regularisers = regularisers_of(job.regularisers, info.way, job.method)
    chosen = choose(job.ask, job.model, info.does)
    unedited = Subject(job.model, device=job.device, dtype=job.dtype)
    if info.does == "erase" and (named := _judge(job, _suite(job, chosen).checks(job.ask.targets))):
        named.open()  # Before anything is trained or drawn: it may not be there.
    model = unedited.view()
    leads = processes(model.device).is_main_process
    progress = progress if leads else ignore_progress
    progress("edit", 0, 1)
    observe = _observe(job, model, chosen, progress) if info.does == "debias" else None
    look = _look(job, model, chosen, progress) if info.sees else None
    with training_in(_training(job), progress, job.options):
        edit = make_edit(model, chosen, job.method, settings, Eyes(observe, look=look), regularisers)
    if not leads:
        return None
    if job.strength != 1.0:
        edit = edit.scaled(job.strength)
        made = origin_of(edit)
        edit = edit.stamped(replace(made, report={**made.report, **effect(edit, model, chosen.request)}))
    seconds = {"edit": time.perf_counter() - started}
    progress("edit", 1, 1)
    failures = weight_failures(edit, job.strength)
    identity = {"edit": edit.hash, "sizes": str(job.sizes), "spec": str(job.spec), "report": job.report, "model": job.model}
    with building(job.out, identity, job.overwrite) as folder:
        path = folder / "edit.safetensors"
        edit.save(path)
        cost = {"seconds": round(seconds["edit"], 3), "bytes": path.stat().st_size, "parameters": edit.parameters}
        trial = Trial(job.method, tuple(concept.name for concept in chosen.concepts), Subject.of(unedited, path), edit, cost)
        suite = _suite(job, chosen) if info.does == "erase" else _suite_of_debias(job, edit)
        answered, pictures = Answered(trial, (), ()), {}
        figures: tuple[Figure, ...] = ()
        judge = _judge(job, suite.checks(trial.concepts))
        if job.report:
            bench = Bench(Store(job.store or default_store()), Record(folder / RECORD), job.spec, judge, tell=progress)
            (answered,), tally = ask([trial], suite, bench)
            seconds |= bench.record.seconds()
            pictures = both_sides(trial, answered.checks, bench)
            figures = figures_of(answered, suite, bench)
            failures += [*tally.failed, *picture_failures(pictures)]
        seconds["total"] = time.perf_counter() - started
        told = circumstances(model, seconds, changed(job.options))
        report = Report([Finding(answered, (), figures)], suite, job.spec, judge, told, tuple(failures), 0, chosen.reasons, job.recipe)
        write_run(report, folder)
        if job.report:
            write_data(report, folder)
            write_page(report, [pictures], folder)
            write_card(report, folder)
            write_samples(report.findings[0], pictures, folder)
        (folder / RECORD).unlink(missing_ok=True)
    shutil.rmtree(_training(job), ignore_errors=True)
    return Outcome(report, chosen, tuple(failures))


def _training(job: Job) -> Path:
    """Where a trained method keeps its state until the edit is made: beside the output folder. Another training does not go on from it, and says so."""
    return job.out.resolve().with_name(f".{job.out.name}.training")


def _observe(job: Job, model: ModelView, chosen: Chosen, progress: ProgressCallback) -> Observe:
    return observer(model, _judge(job), job.spec, Store(job.store or default_store()), chosen.request.kind, job.sizes.seed, progress)


def _look(job: Job, model: ModelView, chosen: Chosen, progress: ProgressCallback) -> Look | None:
    suite, store = _suite(job, chosen), Store(job.store or default_store())

    def asked(sizes: Sizes) -> list[Check]:
        return replace(suite, sizes=sizes).checks(job.ask.targets)

    judge = _judge(job, suite.checks(job.ask.targets))
    return None if judge is None else Watcher(model, judge, asked, job.spec, store, job.sizes.seed, progress)


def _judge(job: Job, checks: Sequence[Check] = ()) -> Judge | None:
    """`moji`'s own, or the one that was named; a CLIP may answer with what is asked for."""
    if job.judge is None:
        return Judge() if job.model == MOJI else None
    return Judge.parse(job.judge).answering(label for check in checks for label in check.labels)


def _suite(job: Job, chosen: Chosen) -> Suite:
    """On `moji` the groups of its table; elsewhere the concepts in their kind's templates, and what is retained."""
    if job.model == MOJI:
        return replace(suites["erase"], sizes=job.sizes)
    return suite_of_words(chosen.concepts, chosen.request.retain, job.sizes)


def _suite_of_debias(job: Job, edit: Edit) -> Suite:
    asked = suites["debias"] if job.model == MOJI else of_edits(suites["debias"], [origin_of(edit)])
    return replace(asked, sizes=job.sizes)
