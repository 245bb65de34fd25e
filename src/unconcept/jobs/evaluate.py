"""Evaluate finished edits, or bench methods by concepts: one folder with report, data and tables."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..attacks import attacks
from ..core.concept import Concept
from ..core.errors import RequestError, SettingsError, require
from ..core.output_folder import PARTIAL_FILE, atomic_folder
from ..core.progress import ProgressCallback, ignore_progress
from ..edits import load_edit, origin_of
from ..edits.base import validate_strength
from ..erasing.failure_checks import picture_failures
from ..evaluation.attacks.inputs import copy_adversarial
from ..evaluation.judging.judge import Judge
from ..evaluation.sampling import count_too_long, require_text_length
from ..evaluation.suites.registry import Suite, suites
from ..evaluation.tasks.edit_task import Variant
from ..evaluation.tasks.edited_model import EditedModel
from ..evaluation.tasks.picture_store import PictureStore, default_store
from ..evaluation.tasks.runner import RECORD_FILE, TaskRecord
from ..evaluation.trials.bench import examine_trials, run_bench, trial_of_edit
from ..evaluation.trials.finding import Finding
from ..evaluation.trials.html import ImagePairs, write_report_page, write_tables
from ..evaluation.trials.report import Report, write_data, write_run
from ..evaluation.trials.trial import RunContext, image_pairs
from ..evaluation.worlds import world_of
from ..models import Family, ModelView, find_model
from ..report.environment import run_environment
from ..worlds.registry import DEFAULT_MODEL


@dataclass(frozen=True)
class EvaluationRun:
    """What an evaluation may be told; None means the default.

    With `edits` they are examined, with `variants` edits are made.
    """

    concepts: tuple[str, ...]
    out: Path
    edits: tuple[Path, ...] = ()
    variants: tuple[Variant, ...] = ()
    joint_requests: tuple[tuple[str, ...], ...] = ()
    """What each arm's edits erase: with () one concept each."""
    suite: str = "quick"
    prompts: Path | None = None
    """a prompt file in the suite's place."""
    spec: str | None = None
    """a paper's way of drawing; None: the model's default."""
    judge: str | None = None
    """NAME or NAME=PATH; an embedded model has its own."""
    attacks: tuple[str, ...] | None = None
    """None: the suite's own."""
    model: str = DEFAULT_MODEL
    strength: float = 1.0
    device: str = "auto"
    dtype: str = "auto"
    batch_size: int = 24
    limit: int | None = None
    max_minutes: float | None = None
    workers: int | None = None
    seed: int = 0
    overwrite: bool = False
    store: Path | None = None

    @property
    def requests(self) -> tuple[tuple[str, ...], ...]:
        """Concepts that each arm erases by one edit."""
        return self.joint_requests or tuple((name,) for name in self.concepts)


def evaluate(run: EvaluationRun, progress: ProgressCallback = ignore_progress) -> Report:
    """Do it all, or go on with it; what is missing makes the report PARTIAL, and the same
    command goes on from there.
    """
    begun = time.perf_counter()
    find_model(run.model)
    suite = _suite(run)
    judge, spec = _judge(run, suite), world_of(run.model).draw_spec(run.spec, suite.spec, run.batch_size)
    validate_strength(run.strength)
    judge.open()  # Before anything is drawn: it may not be there.
    unedited = EditedModel(run.model, device=run.device, dtype=run.dtype)
    suite, left_out = _within_reach(suite, run.attacks or (), unedited.base().family)
    asked = [run.concepts[: i + 1] if suite.stepwise else run.concepts for i in range(len(run.edits))]
    reasons = _long_prompts(suite, asked or run.requests, unedited.base()) | left_out
    trials = [trial_of_edit(path, unedited, names, run.strength) for path, names in zip(run.edits, asked, strict=True)]
    identity = {
        k: str(v) for k, v in vars(run).items() if k not in ("out", "overwrite", "max_minutes", "workers", "store")
    }
    identity["edits"] = str([trial.subject.key for trial in trials])
    with atomic_folder(run.out, identity, run.overwrite) as folder:
        deadline = None if run.max_minutes is None else time.monotonic() + 60 * run.max_minutes
        record = TaskRecord(folder / RECORD_FILE)
        where = RunContext(
            PictureStore(run.store or default_store()), record, spec, judge, run.workers, deadline, progress
        )
        found, tally = (
            run_bench(run.variants, run.requests, suite, unedited, folder, where)
            if run.variants
            else examine_trials(trials, suite, where)
        )
        seconds = {**where.record.seconds(), "total": time.perf_counter() - begun}
        pictures = [
            image_pairs(finding.answered_trial.trial, finding.answered_trial.checks, where) for finding in found
        ]
        failures = [*tally.failed, *_collapsed(found, pictures)]
        report = Report(
            found,
            suite,
            spec,
            judge,
            run_environment(unedited.base(), seconds),
            tuple(failures),
            _missing(run, found),
            reasons,
        )
        _write(run, report, pictures, folder)
        _mark(folder, finished=not report.missing and not tally.failed)
    return report


def _collapsed(found: Sequence[Finding], pictures: Sequence[ImagePairs]) -> list[str]:
    """Edits whose pictures are degenerate: what was asked for is answered all the same."""
    return [
        f"{finding.answered_trial.trial.label}: {line}"
        for finding, sides in zip(found, pictures, strict=True)
        for line in picture_failures(sides)
    ]


def _write(run: EvaluationRun, report: Report, pictures: Sequence[ImagePairs], folder: Path) -> None:
    """Fill the folder."""
    write_run(report, folder)
    write_data(report, folder)
    if run.variants and report.findings:
        write_tables(report.findings, folder)
    write_report_page(report, pictures, folder)
    for number, finding in enumerate(report.findings):
        for i, (name, file) in enumerate(finding.adversarial_files):
            copy_adversarial(
                file, folder / "found" / f"{number:02d}-{finding.answered_trial.trial.label}-{name}-{i}.safetensors"
            )


def _mark(folder: Path, finished: bool) -> None:
    """Without a missing piece the run's state is not needed any more."""
    (folder / PARTIAL_FILE).unlink(missing_ok=True)
    if finished:
        (folder / RECORD_FILE).unlink()
    else:
        (folder / PARTIAL_FILE).write_text("the same command goes on from here\n", encoding="utf-8")


def _suite(run: EvaluationRun) -> Suite:
    """The suite at its size, with the attacks that were asked for."""
    require(bool(run.concepts), "no concept: name at least one", RequestError)
    suite, world = suites[run.suite], world_of(run.model)
    world.require_concepts(run.concepts)
    if run.prompts is not None:
        own = world.suite_from_file(run.prompts, run.concepts)
        if run.judge is None:  # The world's own judge knows the world's concepts alone.
            world.require_concepts([check.concept for check in own.checks(run.concepts)])
        suite = replace(own, figures=suite.figures, attacks=suite.attacks, spec=suite.spec, stepwise=suite.stepwise)
    else:
        origins = [origin_of(load_edit(path)) for path in run.edits]
        suite = world.suite(suite, _words(run), _retained(run), origins)
    suite = suite.with_limit(run.limit, run.seed)
    if run.attacks is None:
        return suite
    return replace(suite, attacks=tuple(name if name == "*" else attacks[name].name for name in run.attacks))


def _within_reach(suite: Suite, named: Sequence[str], family: Family) -> tuple[Suite, dict[str, str]]:
    """The suite with those of its attacks that are defined for the family, and what is told of the others.

    `SettingsError` for one that was named.
    """
    wanted = list(attacks) if "*" in suite.attacks else suite.attacks
    beyond = [name for name in wanted if family not in attacks[name].families]
    for info in (attacks[name] for name in beyond if name in named):
        raise SettingsError(f"{info.name} is not defined for {family} models, only for {', '.join(info.families)}")
    told = {"attacks": f"attacks left out, not defined for {family} models: {', '.join(beyond)}"} if beyond else {}
    return replace(suite, attacks=tuple(name for name in wanted if name not in beyond)), told


def _long_prompts(suite: Suite, requests: Iterable[tuple[str, ...]], model: ModelView) -> dict[str, str]:
    """What is told of prompts that the text encoders cannot hold.

    Published prompts are cut by the stock pipelines of SD 1.x, 2.x and SDXL, and so were the papers'. SD3 and FLUX are
    given finished states: `RequestError` before anything is drawn.
    """
    texts = list(dict.fromkeys(check.prompt.text for names in requests for check in suite.checks(names)))
    if not model.spec.cuts_prompts:
        require_text_length(model, texts)
    count = count_too_long(model, texts)
    held = min(tokenizer.length for tokenizer in model.tokenizers)
    return (
        {
            "prompts": (
                f"{count} of {len(texts)} prompts are longer than the {held} tokens of the text encoder and were cut by"
                " the pipeline"
            )
        }
        if count
        else {}
    )


def _judge(run: EvaluationRun, suite: Suite) -> Judge:
    """The world's own or the one that was named; a CLIP may answer with the concepts, what is retained, what they are
    read as, and what the suite allows.
    """
    if run.judge is None:
        own = world_of(run.model).judge
        if own is None:
            raise RequestError(
                f"model {run.model} has no judge of its own: name one, --judge clip-score=FOLDER or --judge nudenet"
            )
        return own
    named = Judge.parse(run.judge)
    anchors = [anchor for path in run.edits for anchor in origin_of(load_edit(path)).anchors]
    allowed = [label for check in suite.checks(run.concepts) for label in (*check.labels, *check.among)]
    return named.with_labels((*run.concepts, *_retained(run), *anchors, *allowed))


def _words(run: EvaluationRun) -> list[Concept]:
    kinds = [origin_of(load_edit(path)).kind for path in run.edits] or ["object"]
    return [Concept(name, kinds[0]) for name in run.concepts]  # type: ignore[arg-type]


def _retained(run: EvaluationRun) -> list[str]:
    return list(dict.fromkeys(text for path in run.edits for text in origin_of(load_edit(path)).retain))


def _missing(run: EvaluationRun, found: Sequence[Finding]) -> int:
    """Edits, answers and attacked prompts, ceilings too, that were planned and are not there."""
    wanted = len(run.variants) * len(run.requests) if run.variants else len(run.edits)
    attacked = sum(row.missing + (0 if row.ceiling else row.success.n) for f in found for row in f.attack_results)
    return wanted - len(found) + attacked + sum(f.answered_trial.missing for f in found)
