"""Evaluates finished edits, or benchmarks methods on concepts; writes a folder with report, data and tables."""

import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import KW_ONLY, dataclass, fields, replace
from pathlib import Path
from typing import Any

from ..attacks import attacks
from ..core.concept import Concept
from ..core.errors import DataError, RequestError, require
from ..core.escapes import file_name_text
from ..core.output_folder import PARTIAL_FILE, atomic_folder
from ..core.progress import ProgressCallback, ignore_progress
from ..core.text_identity import TextKey, folded_text
from ..edits import load_edit, origin_of
from ..edits.base import validate_strength
from ..erasing.edit_notes import edit_notes
from ..erasing.failure_checks import picture_failures
from ..evaluation.attacks.inputs import copy_adversarial
from ..evaluation.attacks.selection import attacks_of_family, gradable_attacks
from ..evaluation.judging.choice import announce_judge, choose_judge, judge_caveat, require_no_adviser
from ..evaluation.judging.judge import Judge
from ..evaluation.sampling import DrawSpec, count_too_long, require_text_length
from ..evaluation.suites.registry import Suite, suites
from ..evaluation.tasks.edit_task import Variant, variant_of_method
from ..evaluation.tasks.edited_model import EditedModel
from ..evaluation.tasks.runner import RECORD_FILE, TaskRecord
from ..evaluation.trials.bench import edits_beside_methods, examine_trials, run_bench, trial_of_edit
from ..evaluation.trials.finding import Finding, missing_results
from ..evaluation.trials.pages import PicturePairs, write_pages, write_tables
from ..evaluation.trials.report import Report, write_data, write_run
from ..evaluation.trials.trial import RunContext, image_pairs
from ..evaluation.worlds import world_of
from ..methods import methods
from ..models import ModelView, find_model
from ..models.text.text_identity import TokenTextKey
from ..prompts.safety import require_drawable
from ..report.environment import run_environment
from .command_options import AttackOptions, BenchOptions, EvaluateOptions, SuiteOptions
from .edit_base import base_of_edits
from .options import (
    DeviceOptions,
    DrawOptions,
    EditBaseOptions,
    JudgeOptions,
    OverwriteOptions,
    RunOptions,
    StrengthOptions,
    paths,
)
from .privacy import may_keep_pictures, run_store, why_no_pictures


@dataclass(frozen=True)
class EvaluationRun(
    RunOptions, DrawOptions, JudgeOptions, StrengthOptions, DeviceOptions, EditBaseOptions, OverwriteOptions
):
    """A complete evaluation job. It makes edits of `variants`, and evaluates them beside finished `edits`."""

    concepts: tuple[str, ...]
    out: Path
    edits: tuple[Path, ...] = ()
    variants: tuple[Variant, ...] = ()
    joint_requests: tuple[tuple[str, ...], ...] = ()
    """Concepts that each edit of a variant erases together; () for one edit per concept."""
    _: KW_ONLY
    suite: str = "quick"
    prompts: Path | None = None
    """A prompt file to use instead of the suite's prompts."""
    spec: str | None = None
    """Name of a paper's sampler settings; None for the model's default."""
    attacks: tuple[str, ...] | None = None
    """Names of attacks; None for the suite's own."""

    @property
    def requests(self) -> tuple[tuple[str, ...], ...]:
        """Tuples of concepts; each variant makes one edit per tuple."""
        return self.joint_requests or tuple((name,) for name in self.concepts)

    @property
    def identity(self) -> dict[str, str]:
        """What identifies a run, besides the edits: an interrupted run with the same identity continues."""
        elsewhere = ("out", "overwrite", "max_minutes", "workers", "store", "edits")
        return {name: str(value) for name, value in vars(self).items() if name not in elsewhere}


def plan_evaluation(options: EvaluateOptions) -> EvaluationRun:
    """Make the job of `unconcept evaluate` from its options."""
    return _planned(options, edits=paths(options.edits), suite=options.suite, **_strength(options))


def plan_attack(options: AttackOptions) -> EvaluationRun:
    """Make the job of `unconcept attack`; it also attacks the unedited model, for comparison."""
    names = ("*",) if options.name == "all" else (options.name,)
    return _planned(options, edits=paths(options.edits), suite="attack", attacks=names, **_strength(options))


def plan_bench(options: BenchOptions) -> EvaluationRun:
    """Make the job of `unconcept bench` from its options."""
    if options.methods == "all":
        names = [name for name in methods if methods[name].does == "erase"]
    else:
        names = [methods[name.strip()].name for name in options.methods.split(",")]
    edits = paths(options.edits)
    model = base_of_edits(edits, options.model)
    variants = tuple(variant_of_method(name, model) for name in names)
    return _planned(options, variants=variants, edits=edits, suite=options.suite, model=model)


def _strength(options: StrengthOptions) -> dict[str, Any]:
    return {field.name: getattr(options, field.name) for field in fields(StrengthOptions)}


def _planned(options: EvaluateOptions | AttackOptions | BenchOptions, **more: Any) -> EvaluationRun:
    """Make a job from the options that all three commands share."""
    shared = {field.name: getattr(options, field.name) for field in fields(SuiteOptions)}
    del shared["concepts_file"]
    return EvaluationRun(**{**shared, "model": options.model, "concepts": options.names, **more})


def evaluate(run: EvaluationRun, progress: ProgressCallback = ignore_progress) -> Report:
    """Run an evaluation, or continue an interrupted one.

    If results are missing, the report is PARTIAL and the same command continues.
    """
    begun = time.perf_counter()
    run = with_base(run)
    unedited, suite, judge, spec, notes = open_run(run)
    asked = edits_beside_methods(run.edits, run.requests) if run.variants else _in_steps(run, suite.stepwise)
    requests = [*(run.requests if run.variants or not asked else ()), *(names for _, names in asked)]
    keeps = may_keep_pictures([origin_of(load_edit(path)).kind for path in run.edits], run.store_pictures)
    reasons = _long_prompts(suite, requests, unedited.base()) | notes | why_no_pictures(keeps)
    planned = len(run.variants) * len(run.requests) + len(asked)
    sides = 1 + max(1, len(run.variants))  # The unedited model's pictures are judged once for all methods.
    reasons |= announce_judge(judge, sides * sum(len(suite.checks(names)) for names in requests), progress)
    trials = [trial_of_edit(path, unedited, names, run.strength) for path, names in asked]
    identity = {**run.identity, "edits": str([trial.subject.key for trial in trials])}
    with atomic_folder(run.out, identity, run.overwrite) as folder, ExitStack() as opened:
        deadline = None if run.max_minutes is None else time.monotonic() + 60 * run.max_minutes
        store = opened.enter_context(run_store(run.store, folder, keeps))
        context = RunContext(store, TaskRecord(folder / RECORD_FILE), spec, judge, run.workers, deadline, progress)
        found, tally = run_bench(run.variants, run.requests, suite, unedited, folder, context)
        finished, more = examine_trials(trials, suite, context)
        found, tally = [*found, *finished], tally + more
        seconds = {**context.record.seconds(), "total": time.perf_counter() - begun}
        answered = [finding.answered_trial for finding in found]
        pictures = [image_pairs(one.trial, one.checks, context) for one in answered]
        failures = (*tally.failed, *_collapsed(found, pictures))
        conditions = run_environment(unedited.base(), seconds)
        missing = missing_results(planned, found, pictures, judge is not None)
        report = Report(found, suite, spec, judge, conditions, failures, missing, reasons)
        _write(run, report, pictures if keeps else (), folder)
        _mark(folder, finished=not report.missing and not tally.failed)
    return report


def with_base(run: EvaluationRun) -> EvaluationRun:
    """The same run on the base of its edits, if no model was named. Names are checked before an edit is read."""
    _require_known_names(run)
    return replace(run, model=base_of_edits(run.edits, run.model))


def _in_steps(run: EvaluationRun, stepwise: bool) -> list[tuple[Path, tuple[str, ...]]]:
    """Pair each edit file with the concepts that it is asked about: all, or one more for each edit."""
    return [(path, run.concepts[: i + 1] if stepwise else run.concepts) for i, path in enumerate(run.edits)]


def open_run(run: EvaluationRun) -> tuple[EditedModel, Suite, Judge | None, DrawSpec, dict[str, str]]:
    """Open the unedited model, suite, judge and sampler settings; also returns notes on attacks and prompts left out.

    Bad input raises `UsageError` before anything is drawn.
    """
    validate_strength(run.strength, run.amplify)
    find_model(run.model)
    unedited = EditedModel(run.model, device=run.device, dtype=run.dtype)
    suite = _suite(run, TokenTextKey.of(unedited.base()))
    for names in run.requests:
        require_drawable([check.prompt.text for check in suite.checks(names)], names)
    judge = _judge(run, suite, unedited)
    spec = world_of(run.model).draw_spec(run.spec, suite.spec, run.batch_size)
    suite, ungraded = gradable_attacks(suite, run.attacks or (), judge)
    if judge is not None:
        judge.open()  # So that a missing judge fails before anything is drawn.
    suite, left_out = attacks_of_family(suite, run.attacks or (), unedited.base().family)
    notes = {"prompts of the file": suite.note} if suite.note else {}
    for path in run.edits:
        notes |= edit_notes(load_edit(path), unedited.base())
    return unedited, suite, judge, spec, {**ungraded, **left_out, **notes}


def _require_known_names(run: EvaluationRun) -> None:
    """Raise a `UsageError` for a name that does not exist, before any edit file is read."""
    suites[run.suite]
    require(bool(run.concepts), "no concept: name at least one", RequestError)
    message = f"prompts {run.prompts}: the file does not exist"
    require(run.prompts is None or run.prompts.exists(), message, DataError)
    for name in run.attacks or ():
        if name != "*":
            attacks[name]
    if run.judge is not None:
        Judge.parse(run.judge)


def _collapsed(found: Sequence[Finding], pictures: Sequence[PicturePairs]) -> list[str]:
    """List edits whose pictures are degenerate; the evaluation still reports their rates."""
    return [
        f"{finding.answered_trial.trial.label}: {line}"
        for finding, sides in zip(found, pictures, strict=True)
        for line in picture_failures(sides)
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


def _suite(run: EvaluationRun, key: TextKey = folded_text) -> Suite:
    """The suite with the chosen prompts, size and attacks; `key` tells which names are one concept."""
    suite, world = suites[run.suite], world_of(run.model)
    world.require_concepts(run.concepts)
    if run.prompts is not None:
        own = world.suite_from_file(run.prompts, run.concepts, key)
        if run.judge is None:  # The world's own judge knows only the world's concepts.
            world.require_concepts([check.concept for check in own.checks(run.concepts)])
        suite = replace(own, figures=suite.figures, attacks=suite.attacks, spec=suite.spec, stepwise=suite.stepwise)
    else:
        origins = [origin_of(load_edit(path)) for path in run.edits]
        suite = world.suite(suite, _words(run), _retained(run), origins)
    suite = suite.with_limit(run.limit, run.seed)
    if run.attacks is None:
        return suite
    return replace(suite, attacks=tuple(name if name == "*" else attacks[name].name for name in run.attacks))


def _long_prompts(suite: Suite, requests: Iterable[tuple[str, ...]], model: ModelView) -> dict[str, str]:
    """Make a note about prompts that are too long for the text encoders.

    The stock pipelines of SD 1.x, 2.x and SDXL cut long published prompts, and so they did for the papers. SD3 and FLUX
    get finished text states: there `RequestError` is raised before anything is drawn.
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


def _judge(run: EvaluationRun, suite: Suite, unedited: EditedModel) -> Judge | None:
    """The judge of the run; one that answers with texts chooses among concepts, retained texts, anchors and the suite's
    labels.
    """
    judge = choose_judge(run.judge, world_of(run.model).judge, unedited)
    if judge is None:
        return None
    origins = [origin_of(load_edit(path)) for path in run.edits]
    made_by = [*(variant.method for variant in run.variants), *(origin.method for origin in origins)]
    require_no_adviser(judge, made_by, unedited.base())
    anchors = [anchor for origin in origins for anchor in origin.anchors]
    texts = (*run.concepts, *_retained(run), *anchors)
    return judge.with_labels(texts, suite.checks(run.concepts), run.concepts)


def _words(run: EvaluationRun) -> list[Concept]:
    kinds = [origin_of(load_edit(path)).kind for path in run.edits] or ["object"]
    return [Concept(name, kinds[0]) for name in run.concepts]  # type: ignore[arg-type]


def _retained(run: EvaluationRun) -> list[str]:
    return list(dict.fromkeys(text for path in run.edits for text in origin_of(load_edit(path)).retain))
