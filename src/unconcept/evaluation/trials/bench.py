"""Benchmarks methods on requests: makes each edit, tests and attacks it; resumable throughout."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ...attacks import attacks
from ...core.concept import Concept
from ...core.errors import RequestError, require
from ...edits import open_edit, origin_of
from ...edits.base import EditOrigin
from ...prompts.checks import Check
from ..attacks.own_training import why_not_applicable
from ..attacks.rates import attack_rows
from ..attacks.threat_model import AttackerKnowledge
from ..judging.evidence import SuiteFigure, TrialEvidence
from ..judging.judge import Judge
from ..sampling import DrawSpec
from ..suites.registry import Suite
from ..tasks.attack import ATTACK_TASK_COST, AttackTask, plan_attacks
from ..tasks.edit_task import EditTask, Variant
from ..tasks.edited_model import EditedModel
from ..tasks.runner import TaskTally, default_workers
from ..worlds import recipe_settings, world_of
from .filters import FILTERS, OUTSIDE_REASON, NoEdit, trial_of_filter
from .finding import Finding
from .ladder import PlannedRung, ladder_data, plan_ladder
from .trial import AnsweredTrial, RunContext, Trial, answer_trials, image_pairs, raw_score_pairs


def run_bench(
    variants: Sequence[Variant],
    requests: Sequence[tuple[str, ...]],
    suite: Suite,
    unedited: EditedModel,
    folder: Path,
    context: RunContext,
) -> tuple[list[Finding], TaskTally]:
    """Run every variant on every request; a request is a tuple of concepts that one edit erases together.

    Results missing at the deadline are counted as missing.
    """
    if not variants:
        return [], TaskTally()
    made = [one for one in variants if one.method not in FILTERS]
    tasks = [EditTask(unedited, one, concepts, folder / "edits") for concepts in requests for one in made]
    filters = [
        trial_of_filter(one.method, concepts, unedited, context.judge)
        for concepts in requests
        for one in variants
        if one.method in FILTERS
    ]
    tally = context.run(tasks)
    trials = [*(trial_of_task(task) for task in tasks if task.collect(context.store)), *filters]
    found, more = examine_trials(trials, suite, context)
    return found, tally + more


def trial_of_task(task: EditTask) -> Trial:
    """Make the trial of an edit that a task has made."""
    cost = json.loads(task.path.with_suffix(".json").read_text(encoding="utf-8"))
    edit = open_edit(task.path)
    return Trial(task.variant.label, task.concepts, EditedModel.of(task.subject, task.path), edit, cost)


def trial_of_edit(path: Path, unedited: EditedModel, concepts: Sequence[str], strength: float = 1.0) -> Trial:
    """Make the trial of an existing edit file; `EditError` if it was made for another base."""
    edit, label = open_edit(path), path.parent.name if path.stem == "edit" else path.stem
    with edit.applied(unedited.base()):
        pass
    cost = {"bytes": path.stat().st_size, "parameters": edit.parameters}
    return Trial(label, tuple(concepts), EditedModel.of(unedited, path, strength), edit, cost)


def edits_beside_methods(
    edits: Sequence[Path], requests: Sequence[tuple[str, ...]]
) -> list[tuple[Path, tuple[str, ...]]]:
    """Pair finished edits with the requests that they erase: each has a row in the table of the methods.

    `RequestError` if an edit erases none of them.
    """
    found: list[tuple[Path, tuple[str, ...]]] = []
    for path in edits:
        targets = origin_of(open_edit(path)).targets
        own = [(path, names) for names in requests if set(names) <= set(targets)]
        told = f"edit {path} erases {', '.join(targets)}, which is none of the requests; name its concept too"
        require(bool(own), told, RequestError)
        found += own
    return found


def examine_trials(trials: Sequence[Trial], suite: Suite, context: RunContext) -> tuple[list[Finding], TaskTally]:
    """Run the suite's checks, then its attacks."""
    if not trials:
        return [], TaskTally()
    answered, tally = answer_trials(trials, suite, context)
    if suite.rungs:
        found, more = _climbed(answered, suite, context)
        return found, tally + more
    if not suite.attacks:
        return [_with_figures(Finding(one), suite, context) for one in answered], tally
    planned, beyond = [], []
    for one in answered:
        own, ceilings, reasons = attacks_on_trial(one.trial, suite, context.spec, context.judge)
        planned.append((own, ceilings))
        beyond.append(reasons)
    searches = [task for own, ceilings in planned for task in (*own, *ceilings)]
    tally += _run_searches(searches, str(trials[0].subject.base().device), context)
    found = [_finding(one, *pair, suite, context) for one, pair in zip(answered, planned, strict=True)]
    return [replace(one, out_of_reach=reasons) for one, reasons in zip(found, beyond, strict=True)], tally


def _run_searches(searches: Sequence[AttackTask], device: str, context: RunContext) -> TaskTally:
    """Run each search once."""
    tasks = {task.id: task for task in searches}
    workers = context.workers or default_workers(ATTACK_TASK_COST * len(tasks), device)
    return context.run(list(tasks.values()), workers)


def _climbed(answered: Sequence[AnsweredTrial], suite: Suite, context: RunContext) -> tuple[list[Finding], TaskTally]:
    """Climb the ladder of each trial, every rung to its end."""
    planned = [ladder_on_trial(one.trial, suite, context.spec, context.judge, context.control) for one in answered]
    searches = [task for rungs in planned for rung in rungs for task in rung.tasks]
    tally = _run_searches(searches, str(answered[0].trial.subject.base().device), context)
    control, found = context.control.model if context.control else None, []
    for one, rungs in zip(answered, planned, strict=True):
        checks = _attacked_checks(one.trial, suite)
        ladder = ladder_data(rungs, one, checks, context.store, control) if rungs else None
        done = [(part.rung.name, task) for part in rungs for task in part.own if task.is_done(context.store)]
        files = tuple((name, task.path(context.store).with_suffix(".safetensors")) for name, task in done)
        notes = picture_warning(one, checks, [part.rung.attack for part in rungs if part.own])
        found.append(Finding(one, (), suite_figures(one, suite, context), files, ladder=ladder, notes=notes))
    return found, tally


def picture_warning(one: AnsweredTrial, checks: Sequence[Check], names: Sequence[str]) -> dict[str, str]:
    """Warn that attacks of these names begin with pictures of a concept of which half do not show it, if so.

    They are the unedited model's for the checks, or others of the concept.
    """
    shown = [answer.hits[0] for answer in one.answers if answer.check in checks]
    own = [name for name in dict.fromkeys(names) if attacks[name].place.pictures != "none"]
    if not own or not shown or 2 * sum(shown) > len(shown):
        return {}
    found = f"the judge finds it in {sum(shown)} of {len(shown)} that were drawn for it"
    told = f"pictures of {checks[0].concept}, with which {', '.join(own)} begin: {found}, so their rates say little"
    return {"pictures of the concept": told}


def ladder_on_trial(
    trial: Trial, suite: Suite, spec: DrawSpec, judge: Judge | None, control: EditedModel | None
) -> list[PlannedRung]:
    """Plan the suite's rungs for the trial's first concept; none if nobody judges or nothing is asked."""
    checks = _attacked_checks(trial, suite)
    if not checks or judge is None:
        return []
    return plan_ladder(trial, suite, checks, _attacker_knowledge(trial, checks), spec, judge, control)


def attacks_on_trial(
    trial: Trial, suite: Suite, spec: DrawSpec, judge: Judge | None
) -> tuple[list[AttackTask], list[AttackTask], dict[str, str]]:
    """Plan the suite's attacks: tasks on the edited model, the same on the unedited model, and why others cannot act on
    the edit.
    """
    names = [name for name in attacks if suite.attacks == ("*",) or name in suite.attacks]
    if isinstance(trial.edit, NoEdit):
        return [], [], dict.fromkeys(names, OUTSIDE_REASON)
    reasons = {name: why_not_applicable(attacks[name], trial.edit, trial.subject.base()) for name in names}
    beyond = {name: reason for name, reason in reasons.items() if reason}
    checks = _attacked_checks(trial, suite)
    if not checks or judge is None:
        return [], [], beyond
    world, known = world_of(trial.subject.model), _attacker_knowledge(trial, checks)
    chosen = {name: recipe_settings(world, name) for name in names if name not in beyond}
    own, ceilings = (
        plan_attacks(subject, spec, judge, known, chosen, checks) for subject in (trial.subject, trial.subject.unedited)
    )
    return own, ceilings, beyond


def _finding(
    one: AnsweredTrial, own: Sequence[AttackTask], ceilings: Sequence[AttackTask], suite: Suite, context: RunContext
) -> Finding:
    plain, checks = {answer.check.prompt: answer.hits[1] for answer in one.answers}, _attacked_checks(one.trial, suite)
    shown = [plain.get(check.prompt, False) for check in checks]
    rows = attack_rows(own, ceilings, shown, context.store) if own else []
    done = [task for task in own if task.is_done(context.store)]
    files = tuple((task.name, task.path(context.store).with_suffix(".safetensors")) for task in done)
    notes = picture_warning(one, checks, [task.name for task in own])
    return _with_figures(Finding(one, tuple(rows), adversarial_files=files, notes=notes), suite, context)


def _with_figures(finding: Finding, suite: Suite, context: RunContext) -> Finding:
    """The finding with the suite's figures and notes."""
    found = _evidence(finding.answered_trial, context)
    if found is None:
        return finding
    return replace(finding, figures=tuple(suite.figures(found)), notes={**finding.notes, **suite.notes(found)})


def suite_figures(one: AnsweredTrial, suite: Suite, context: RunContext) -> tuple[SuiteFigure, ...]:
    """Compute the suite's own figures; empty until every check is answered and everything is drawn."""
    found = _evidence(one, context)
    return () if found is None else tuple(suite.figures(found))


def _evidence(one: AnsweredTrial, context: RunContext) -> TrialEvidence | None:
    """What the figures are computed from; None until every check is answered and everything is drawn."""
    judge = context.judge
    if judge is None or one.missing or len(image_pairs(one.trial, one.drawn, context)) < len(set(one.drawn)):
        return None
    return TrialEvidence(
        one.trial.concepts,
        one.answers,
        lambda: image_pairs(one.trial, one.prompts, context),
        judge,
        lambda: raw_score_pairs(one, context, judge),
        one.drawn,
        context.references,
    )


def _attacker_knowledge(trial: Trial, checks: Sequence[Check]) -> AttackerKnowledge:
    """What an attacker may know about the concept of these checks, which the trial's edit erased."""
    world, origin = world_of(trial.subject.model), origin_of(trial.edit)
    return world.attacker_knowledge(_erased_concept(checks[0].concept, origin), origin.retain)


def _erased_concept(name: str, origin: EditOrigin) -> Concept:
    """A concept that an edit erased; the edit's other targets count as its aliases."""
    aliases = tuple(target for target in origin.targets if target != name)
    return Concept(name, origin.kind, aliases)  # type: ignore[arg-type]


def _attacked_checks(trial: Trial, suite: Suite) -> list[Check]:
    """The first direct prompts of the trial's first concept."""
    target, checks = trial.concepts[0], suite.checks(trial.concepts)
    members = [check for check in checks if check.group == "direct" and check.concept == target]
    return members[: suite.prompts_per_attack]
