"""The plans of `evaluate`, `attack` and `bench`."""

from collections.abc import Callable, Sequence

from ...core.output_folder import require_usable_folder
from ...evaluation.judging.choice import NOT_JUDGED_NOTE
from ...evaluation.tasks.remote_files import local_folder
from ...evaluation.trials.trial import Trial
from ...prompts.checks import Prompt
from ..command_options import AttackOptions, BenchOptions, EvaluateOptions
from ..evaluate import plan_attack, plan_bench, plan_evaluation
from ..evaluate_job import EvaluationRun, OpenRun, open_run
from .attacks import attack_steps
from .bench import MadeEdits, rehearse_edits
from .facts import PAGE_BYTES, listed, model_facts
from .pictures import DrawingPlan, stored_prompts, workers_for
from .plan import Plan, PlannedFile, PlannedStep, planned_file
from .timing import (
    DrawTime,
    grey_picture,
    judge_seconds,
    load_networks,
    time_drawing,
    time_with_edit,
    timed_once,
)


def plan_run(options: EvaluateOptions | AttackOptions | BenchOptions) -> Plan:
    """Plan an evaluation, an attack or a bench. Raises the errors that it raises for bad input."""
    run = _run_of(options)
    opening, opened = timed_once(lambda: open_run(run))
    return plan_opened(opened, opening)


def plan_opened(
    opened: OpenRun, opening: float, search: Callable[[OpenRun, DrawTime], PlannedStep] | None = None
) -> Plan:
    """Plan a run that was opened in `opening` seconds; `search` plans what comes before its edits."""
    run, model = opened.run, opened.unedited.base()
    require_usable_folder(run.out, opened.identity, run.overwrite)
    loading = load_networks(model)
    base = time_drawing(model, opened.spec, opened.spec.batch_size)
    made = rehearse_edits(opened, base.of_one_step)
    trials = [*made.trials, *opened.trials]
    drawing = _drawing(opened, trials, base)
    steps = [
        PlannedStep(f"open {run.model}", opening + loading, "it was opened"),
        *([search(opened, base)] if search else []),
        *made.steps,
        *drawing.steps(),
        *attack_steps(trials, opened, drawing.judge_cost),
    ]
    facts = {
        **model_facts(model),
        "concepts": listed(run.concepts),
        "edits": f"{len(opened.trials)} given, {made.count} to make",
        "suite": f"{opened.suite.name}: {len(run_prompts(opened, opened.asked))} prompts",
        "judge": NOT_JUDGED_NOTE if opened.judge is None else opened.judge.open().name,
        **opened.notes,
    }
    return Plan(facts, tuple(steps), tuple(_files(opened, made, drawing)))


def _run_of(options: EvaluateOptions | AttackOptions | BenchOptions) -> EvaluationRun:
    if isinstance(options, BenchOptions):
        return plan_bench(options)
    return plan_attack(options) if isinstance(options, AttackOptions) else plan_evaluation(options)


def run_prompts(opened: OpenRun, asked: Sequence[tuple[str, ...]]) -> list[Prompt]:
    """The prompts of these requests, each once."""
    return list(dict.fromkeys(prompt for names in asked for prompt in opened.suite.prompts(names)))


def _drawing(opened: OpenRun, trials: Sequence[Trial], base: DrawTime) -> DrawingPlan:
    """What is drawn and judged: each edit's prompts, and the unedited model's once."""
    run, model, store = opened.run, opened.unedited.base(), local_folder(opened.run.store)
    asked = [opened.unedited, *(trial.subject for trial in trials)]
    prompts = [run_prompts(opened, opened.asked), *(run_prompts(opened, [trial.concepts]) for trial in trials)]
    have = [stored_prompts(store, subject, opened.spec, own) for subject, own in zip(asked, prompts, strict=True)]
    lacking = [len(own) - count for own, count in zip(prompts, have, strict=True)]
    workers = workers_for(sum(lacking), str(model.device), run.workers)
    if workers > 1 or max(lacking) < base.batch:
        base = time_drawing(model, opened.spec, max(lacking), None, workers)
    timings = {"": base}
    for trial in trials:
        if trial.label not in timings:  # Edits of one method are drawn alike.
            timings[trial.label] = time_with_edit(model, opened.spec, max(lacking), trial.edit, base, workers)
    sides = [(lacking[0], timings[""])]
    sides += [(count, timings[trial.label]) for count, trial in zip(lacking[1:], trials, strict=True)]
    like, judge = grey_picture(model), opened.judge
    checks = opened.suite.checks(opened.asked[0])
    cost = 0.0 if judge is None or not checks else judge_seconds(judge, checks[0], like)
    return DrawingPlan(opened.spec, tuple(sides), sum(have), opened.judged_pictures, judge, cost, like.numel(), workers)


def _files(opened: OpenRun, made: MadeEdits, drawing: DrawingPlan) -> list[PlannedFile]:
    out, shown = opened.run.out, (drawing.count + drawing.stored) * drawing.png_bytes
    files = [planned_file(out / "report.html", PAGE_BYTES + 4 / 3 * shown)]
    files += [planned_file(out / name) for name in ("report.json", "results.csv", "run.json")]
    if opened.run.variants:
        files += [planned_file(out / "results.md"), planned_file(out / "edits", made.bytes)]
    if opened.suite.attacks:
        files.append(planned_file(out / "found"))
    return [*files, *drawing.store_files(local_folder(opened.run.store))]
