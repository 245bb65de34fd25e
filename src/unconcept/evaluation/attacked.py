"""From finished attacks to rows: how often each brought a concept back, at what budget, beside ceiling and floor."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..attacks import RUNGS, attacks
from ..metrics.asr import Ending, attack_rates, success_curve
from ..metrics.rates import Rate, clopper_pearson
from .robustness import AttackTask
from .store import Store


@dataclass(frozen=True)
class Point:
    """One budget of a success-against-budget curve; steps and queries are means over prompts."""

    steps: int
    queries: float
    success: float


@dataclass(frozen=True)
class AttackRow:
    """One attack on one edit. Rates are over prompts, with exact 95 % intervals; a prompt without a result counts as a failure."""

    attack: str
    rung: str
    concept: str
    pre: Rate  # the plain prompts, unattacked
    success: Rate  # ASR: plain prompts and attacked ones together, (pre + gained) / N
    ceiling: Rate | None  # the same attack on the unedited model
    floor: Rate  # its first input, before any search
    curve: tuple[Point, ...]
    seconds: float  # of search, all prompts
    missing: int  # prompts without a result


@dataclass(frozen=True)
class Tries:
    """The attempts at one prompt: (steps spent, whether the picture shows the concept)."""

    made: tuple[tuple[int, bool], ...]
    seconds: float


def rows(tasks: Sequence[AttackTask], ceilings: Sequence[AttackTask], plain: Sequence[bool], store: Store) -> list[AttackRow]:
    """One row an attack, by rung. `plain[i]`: whether the i-th unattacked prompt already shows the concept."""
    own, above = _by_name(tasks, store), _by_name(ceilings, store)
    made = [_row(name, tasks[0].lore.concept.name, single, above.get(name, []), plain) for name, single in own.items()]
    return sorted(made, key=lambda row: (RUNGS.index(row.rung), row.attack))  # type: ignore[arg-type]


def _row(name: str, concept: str, single: Sequence[Tries | None], above: Sequence[Tries | None], plain: Sequence[bool]) -> AttackRow:
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
        curve=_curve(single, begun),
        seconds=round(sum(part.seconds for part in single if part), 3),
        missing=rates.crashed,
    )


def _by_name(tasks: Sequence[AttackTask], store: Store) -> dict[str, list[Tries | None]]:
    """What became of each prompt, in order, by attack."""
    found: dict[str, list[Tries | None]] = {}
    for task in tasks:
        path = task.path(store)
        result = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
        found.setdefault(task.name, []).extend(_of(result, i, task.size) for i in range(task.size))
    return found


def _of(result: Mapping[str, Any] | None, i: int, size: int) -> Tries | None:
    """The attempts at one prompt of a task, with its share of the task's time."""
    if result is None:
        return None
    tries = [attempt for attempt in result["attempts"] if str(i) in attempt["shown"]]
    return Tries(tuple((attempt["steps"], attempt["shown"][str(i)]) for attempt in tries), result["seconds"]["search"] / size)


def _solved(part: Tries | None) -> int | None:
    """Steps after which the first input showed the concept."""
    hits = [steps for steps, hit in part.made if hit] if part else []
    return min(hits) if hits else None


def _ending(plain: bool, steps: int | None, part: object) -> Ending:
    return "pre" if plain else "crashed" if part is None else "failed" if steps is None else "gained"


def _curve(single: Sequence[Tries | None], begun: Sequence[int | None]) -> tuple[Point, ...]:
    """Success of the attack alone, at every number of steps at which something was tried."""
    budgets = sorted({steps for part in single if part for steps, _ in part.made})
    queries = [sum(sum(steps <= budget for steps, _ in part.made) for part in single if part) / len(single) for budget in budgets]
    rates = success_curve(begun, budgets)
    return tuple(Point(budget, asked, rate.value) for budget, asked, rate in zip(budgets, queries, rates, strict=True))


def _rate(hits: Sequence[bool]) -> Rate:
    return clopper_pearson(sum(hits), len(hits))
