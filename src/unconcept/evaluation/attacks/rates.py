"""Turns finished attacks into rows: success rate, budget curve, floor and ceiling of each attack."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...attacks import ACCESS_LEVELS, attacks
from ...metrics.asr import AttackEnding, BudgetPoint, attack_rates, success_curve
from ...metrics.intervals import Rate, clopper_pearson
from ...scorers import NOTHING_LABEL
from ..tasks.attack import AttackTask
from ..tasks.picture_store import PictureStore

WANTED_CHANGE = "asked change shown"  # name of its rate beside those of controls


@dataclass(frozen=True)
class ControlRate:
    """Rate of one control of an attack."""

    name: str
    rate: Rate


@dataclass(frozen=True)
class AttackRow:
    """Results of one attack on one edit.

    Rates are over prompts, with exact 95 % intervals; a prompt without a result counts as a failure.
    """

    attack: str
    rung: str
    concept: str
    pre: Rate
    """Rate on the plain prompts, without attack."""
    success: Rate
    """ASR: prompts that show the concept, plain or attacked, (pre + gained) / N."""
    ceiling: Rate | None
    """Rate of the same attack on the unedited model; None if it is missing."""
    floor: Rate
    """Rate of the attack's first input, before any search."""
    nothing: Rate | None
    """Share of prompts for whose last input the judge recognises nothing; None if it was not recorded."""
    curve: tuple[BudgetPoint, ...]
    seconds: float
    """Seconds of search over all prompts."""
    missing: int
    """Number of prompts without a result."""
    controls: tuple[ControlRate, ...] = ()
    """Rates of its controls, and of the change that it asked for: the share of prompts whose last input shows it."""


@dataclass(frozen=True)
class ScoredAttempt:
    """One input that was drawn for one prompt, and the judge's answer."""

    steps: int
    """Search steps up to this input."""
    shown: bool
    """Whether its picture shows the concept."""
    nothing: bool | None
    """Whether the judge recognises nothing in it; None if it was not recorded."""
    seconds: float | None
    """This prompt's share of the search time since the attempt before; None if it was not recorded."""
    changed: bool | None = None
    """Whether its picture shows the change that was asked for; None if none was."""
    control: str | None = None
    """Name of the control that it is; None for a try."""


@dataclass(frozen=True)
class PromptAttempts:
    """All attempts at one prompt, and its controls."""

    attempts: tuple[ScoredAttempt, ...]
    seconds: float
    controls: tuple[ScoredAttempt, ...] = ()


def attack_rows(
    tasks: Sequence[AttackTask], ceilings: Sequence[AttackTask], plain: Sequence[bool], store: PictureStore
) -> list[AttackRow]:
    """Make one row per attack, ordered by access. `plain[i]`: whether plain prompt i already shows the concept."""
    own, above = _by_name(tasks, store), _by_name(ceilings, store)
    made = [
        _row(name, tasks[0].knowledge.concept.name, single, above.get(name, []), plain) for name, single in own.items()
    ]
    return sorted(made, key=lambda row: (ACCESS_LEVELS.index(row.rung), row.attack))


def _row(
    name: str,
    concept: str,
    single: Sequence[PromptAttempts | None],
    above: Sequence[PromptAttempts | None],
    plain: Sequence[bool],
) -> AttackRow:
    begun = [_solved(part) for part in single]
    rates = attack_rates([_ending(*one) for one in zip(plain, begun, single, strict=True)])
    return AttackRow(
        attack=name,
        rung=attacks[name].rung,
        concept=concept,
        pre=rates.pre,
        success=rates.asr,
        ceiling=_rate([_solved(part) is not None for part in above]) if above and None not in above else None,
        floor=_rate([steps == 0 for steps in begun]),
        nothing=_nothing(single),
        curve=_curve(single, begun),
        seconds=round(sum(part.seconds for part in single if part), 3),
        missing=rates.crashed,
        controls=_controls(single),
    )


def _by_name(tasks: Sequence[AttackTask], store: PictureStore) -> dict[str, list[PromptAttempts | None]]:
    """Results of each prompt, in order, by attack; None for a prompt without a result."""
    found: dict[str, list[PromptAttempts | None]] = {}
    for task in tasks:
        path = task.path(store)
        result = json.loads(path.read_text(encoding="utf-8")) if task.is_done(store) else None
        found.setdefault(task.name, []).extend(_of(result, i, task.size) for i in range(task.size))
    return found


def _of(result: Mapping[str, Any] | None, i: int, size: int) -> PromptAttempts | None:
    """The attempts at one prompt of a task, with its share of the task's time."""
    if result is None:
        return None
    found = [_try(attempt, str(i)) for attempt in result["attempts"] if str(i) in attempt["shown"]]
    tries = tuple(one for one in found if one.control is None)
    controls = tuple(one for one in found if one.control is not None)
    return PromptAttempts(tries, result["seconds"]["search"] / size, controls)


def _try(attempt: Mapping[str, Any], name: str) -> ScoredAttempt:
    """One prompt's part of an attempt. Older result files without words and seconds still count."""
    nothing = attempt["words"][name] == NOTHING_LABEL if "words" in attempt else None
    return ScoredAttempt(
        attempt["steps"],
        attempt["shown"][name],
        nothing,
        attempt["seconds"] / len(attempt["shown"]) if "seconds" in attempt else None,
        attempt.get("changed", {}).get(name),
        attempt.get("control"),
    )


def _solved(part: PromptAttempts | None) -> int | None:
    """Steps of the first input that showed the concept; None if none did."""
    hits = [one.steps for one in part.attempts if one.shown] if part else []
    return min(hits) if hits else None


def _nothing(single: Sequence[PromptAttempts | None]) -> Rate | None:
    last = [part.attempts[-1].nothing for part in single if part and part.attempts]
    return _rate([one for one in last if one is not None]) if last and None not in last else None


def _controls(single: Sequence[PromptAttempts | None]) -> tuple[ControlRate, ...]:
    """The rate of each control, over the prompts that have it: whether any of its pictures shows the concept.

    Beside them, the rate of the asked change in last inputs.
    """
    hits: dict[str, list[bool]] = {}
    for part in filter(None, single):
        for name in dict.fromkeys(one.control or "" for one in part.controls):
            hits.setdefault(name, []).append(any(one.shown for one in part.controls if one.control == name))
        changed = [one.changed for one in part.attempts if one.changed is not None]
        if changed:
            hits.setdefault(WANTED_CHANGE, []).append(changed[-1])
    return tuple(ControlRate(name, _rate(found)) for name, found in hits.items())


def _ending(plain: bool, steps: int | None, part: object) -> AttackEnding:
    return "pre" if plain else "crashed" if part is None else "failed" if steps is None else "gained"


def _curve(single: Sequence[PromptAttempts | None], begun: Sequence[int | None]) -> tuple[BudgetPoint, ...]:
    """Success of the attack alone, without plain prompts, at every number of steps with an attempt."""
    made = [one for part in single if part for one in part.attempts]
    budgets = sorted({one.steps for one in made})
    return tuple(_point(budget, made, begun) for budget in budgets)


def _point(budget: int, made: Sequence[ScoredAttempt], begun: Sequence[int | None]) -> BudgetPoint:
    within = [one for one in made if one.steps <= budget]
    (rate,), seconds = success_curve(begun, [budget]), [one.seconds for one in within if one.seconds is not None]
    mean = round(sum(seconds) / len(begun), 3) if len(seconds) == len(within) else None
    return BudgetPoint(budget, len(within) / len(begun), mean, rate.value)


def _rate(hits: Sequence[bool]) -> Rate:
    return clopper_pearson(sum(hits), len(hits))
