"""Climbs the ladder: every rung's attack on an edit, on the unedited model and on one that never saw the concept."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...attacks import attacks
from ...core.errors import RequestError, require
from ...metrics.asr import BudgetPoint
from ...metrics.intervals import Rate, clopper_pearson
from ...prompts.checks import Check
from ...report.data_types import RateData
from ...report.ladder_data import LadderBudget, LadderData, RungData
from ..attacks.ladder import Rung, named_rungs
from ..attacks.own_training import why_not_applicable
from ..attacks.rates import AttackRow, attack_rows
from ..attacks.selection import ungraded_reason
from ..attacks.threat_model import AttackerKnowledge
from ..judging.judge import Judge
from ..sampling import DrawSpec
from ..suites.registry import Suite
from ..tasks.attack import AttackTask, plan_attacks
from ..tasks.edited_model import EditedModel
from ..tasks.picture_store import PictureStore
from ..worlds import world_of
from .filters import OUTSIDE_REASON, NoEdit
from .trial import AnsweredTrial, Trial

_HALF = 0.5  # share of prompts from which the concept counts as back


@dataclass(frozen=True)
class PlannedRung:
    """One rung with its searches, or the reason why it has none."""

    rung: Rung
    settings: dict[str, object]
    own: tuple[AttackTask, ...] = ()
    """Of the edited model."""
    ceilings: tuple[AttackTask, ...] = ()
    """The same of the unedited model."""
    controls: tuple[AttackTask, ...] = ()
    """The same of a model that never saw the concept, with pictures of the unedited one."""
    reason: str | None = None

    @property
    def tasks(self) -> tuple[AttackTask, ...]:
        return (*self.own, *self.ceilings, *self.controls)


def plan_ladder(
    trial: Trial,
    suite: Suite,
    checks: Sequence[Check],
    known: AttackerKnowledge,
    spec: DrawSpec,
    judge: Judge,
    control: EditedModel | None = None,
) -> list[PlannedRung]:
    """Plan the searches of the suite's rungs for some direct checks of one concept."""
    planned, world = [], world_of(trial.subject.model)
    for rung in named_rungs(suite.rungs):
        settings = rung.settings(world)
        reason = _why_not(rung, trial, judge)
        if reason or not rung.attack:
            planned.append(PlannedRung(rung, settings, reason=reason))
            continue
        chosen = {rung.attack: settings}
        own, ceilings = (
            tuple(plan_attacks(subject, spec, judge, known, chosen, checks))
            for subject in (trial.subject, trial.subject.unedited)
        )
        controls: tuple[AttackTask, ...] = ()
        if control is not None and rung.teaches:
            same = plan_attacks(control, spec, judge, known, chosen, checks)
            controls = tuple(replace(task, teacher=trial.subject.unedited) for task in same)
        planned.append(PlannedRung(rung, settings, own, ceilings, controls))
    return planned


def require_a_rung(trial: Trial, suite: Suite, judge: Judge | None) -> None:
    """Raise `RequestError` unless a rung of the suite, if it has any, can act on the trial's edit."""
    reasons = [_why_not(rung, trial, judge) for rung in named_rungs(suite.rungs)] if suite.rungs else [None]
    message = f"no rung can reach {trial.label}: {reasons[0]}; name other rungs, or leave --rung out"
    require(not all(reasons), message, RequestError)


def _why_not(rung: Rung, trial: Trial, judge: Judge | None) -> str | None:
    """Say by what mechanism a rung is n/a; None if it is not."""
    if isinstance(trial.edit, NoEdit):
        return OUTSIDE_REASON
    if not rung.attack:
        if not trial.edit.can_bake():
            return None
        return (
            f"{rung.name} leaves an edit out that runs beside the model; this one {trial.edit.describe()}, and a"
            " checkpoint with it has no part that could be left out"
        )
    info, model = attacks[rung.attack], trial.subject.base()
    if model.family not in info.families:
        return info.undefined_for(model.family)
    if judge is not None and info.white_box and not judge.reader.grades_white_box:
        return ungraded_reason(judge, info.name)
    return why_not_applicable(info, trial.edit, model)


def ladder_data(
    planned: Sequence[PlannedRung],
    one: AnsweredTrial,
    checks: Sequence[Check],
    store: PictureStore,
    control: str | None,
) -> LadderData:
    """Results of all rungs in the ladder's order."""
    hits = {answer.check.prompt: answer.hits for answer in one.answers}
    before = [hits[check.prompt][0] for check in checks if check.prompt in hits]
    after = [check.prompt in hits and hits[check.prompt][1] for check in checks]
    rungs = tuple(_rung(part, before, after, store) for part in planned)
    return LadderData(concept=checks[0].concept, prompts=len(checks), control=control, rungs=rungs)


def _rung(one: PlannedRung, before: Sequence[bool], after: Sequence[bool], store: PictureStore) -> RungData:
    """One rung. `before`: whether those plain prompts that were drawn and judged show the concept without the edit;
    `after`: whether each of them shows it with the edit, False for one that is missing.
    """
    rung = one.rung
    found = RungData(
        name=rung.name,
        attack=rung.attack,
        cost=rung.cost,
        access=rung.access,
        settings=json.loads(json.dumps(one.settings)),
        reason=one.reason,
    )
    if one.reason:
        return found
    if not rung.attack:
        if len(before) < len(after):
            return found.model_copy(update={"missing": len(after) - len(before)})
        rate = _data(clopper_pearson(sum(before), len(before)))
        free = LadderBudget(queries=0, steps=0, pictures=0, seconds=0.0)
        needed = free if rate is not None and rate.value >= _HALF else None
        return found.model_copy(update={"success": rate, "ceiling": rate, "needed": needed, "spent": free})
    (row,) = attack_rows(one.own, one.ceilings, after, store)
    never = attack_rows(one.controls, [], [False] * len(after), store) if one.controls else []
    lacking = row.missing + (0 if row.ceiling else row.success.n) + sum(each.missing for each in never)
    pictures = rung.pictures(one.settings)
    return found.model_copy(
        update={
            "success": _data(row.success),
            "floor": _data(row.floor),
            "ceiling": _data(row.ceiling),
            "control": _data(never[0].success) if never else None,
            "may_teach": rung.teaches and not never,
            "needed": _needed(row, pictures),
            "spent": _budget(row, row.curve[-1], pictures) if row.curve else None,
            "missing": lacking,
        }
    )


def _needed(row: AttackRow, pictures: int) -> LadderBudget | None:
    """The first budget at which half of the prompts show the concept."""
    if row.missing:
        return None
    reached = next((point for point in row.curve if point.success >= _HALF), None)
    if reached is None:
        return None
    needs_none = reached.steps == 0 and not attacks[row.attack].place.starts_from_pictures
    return _budget(row, reached, 0 if needs_none else pictures)


def _budget(row: AttackRow, point: BudgetPoint, pictures: int) -> LadderBudget:
    """A point of the curve as one search's budget: a search for the whole concept serves all prompts at once."""
    searches = row.success.n if attacks[row.attack].scope == "concept" else 1
    seconds = None if point.seconds is None else round(point.seconds * searches, 3)
    return LadderBudget(queries=point.queries, steps=point.steps, pictures=pictures, seconds=seconds)


def _data(rate: Rate | None) -> RateData | None:
    return None if rate is None else RateData.model_validate(rate)
