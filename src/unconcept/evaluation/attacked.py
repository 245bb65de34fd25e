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


def plan_rows(tasks: Sequence[AttackTask], store: Store) -> dict[str, list[Mapping[str, Any] | None]]:
    """Results by attack, in the tasks' order; None where one is missing."""
    found: dict[str, list[Mapping[str, Any] | None]] = {}
    for task in tasks:
        path = task.path(store)
        found.setdefault(task.name, []).append(json.loads(path.read_text(encoding="utf-8")) if path.exists() else None)
    return found


def rows(tasks: Sequence[AttackTask], ceilings: Sequence[AttackTask], plain: Sequence[bool], store: Store) -> list[AttackRow]:
    """One row an attack, by rung. `plain[i]`: whether the i-th unattacked prompt already shows the concept."""
    results, top = plan_rows(tasks, store), plan_rows(ceilings, store)
    made = []
    for name, parts in results.items():
        single = _spread(name, parts, len(plain))
        begun = [_solved(part) for part in single]
        rates = attack_rates([_ending(*one) for one in zip(plain, begun, single, strict=True)])
        above = _spread(name, top[name], len(plain)) if name in top else []
        made.append(
            AttackRow(
                attack=name,
                rung=attacks[name].rung,
                concept=tasks[0].concept,
                pre=rates.pre,
                success=rates.asr,
                ceiling=_rate([_solved(part) is not None for part in above]) if above and None not in above else None,
                floor=_rate([steps == 0 for steps in begun]),
                curve=_curve(single, begun),
                seconds=sum(part["seconds"]["search"] for part in parts if part),
                missing=rates.crashed,
            )
        )
    return sorted(made, key=lambda row: RUNGS.index(row.rung))  # type: ignore[arg-type]


def _spread(name: str, parts: Sequence[Mapping[str, Any] | None], n: int) -> list[dict[str, Any] | None]:
    """One result a prompt: an attack on all prompts at once is taken apart."""
    if attacks[name].scope == "prompt":
        return [_of(part, 0) for part in parts]
    return [_of(parts[0], i) for i in range(n)]


def _of(part: Mapping[str, Any] | None, i: int) -> dict[str, Any] | None:
    """The attempts at one prompt, numbered by their queries."""
    if part is None:
        return None
    tries = [attempt for attempt in part["attempts"] if str(i) in attempt["shown"]]
    return {"steps": [attempt["steps"] for attempt in tries], "shown": [attempt["shown"][str(i)] for attempt in tries]}


def _solved(part: Mapping[str, Any] | None) -> int | None:
    """Steps after which the first input showed the concept."""
    hits = [] if part is None else [steps for steps, hit in zip(part["steps"], part["shown"], strict=True) if hit]
    return min(hits) if hits else None


def _ending(plain: bool, steps: int | None, part: object) -> Ending:
    return "pre" if plain else "crashed" if part is None else "failed" if steps is None else "gained"


def _curve(single: Sequence[Mapping[str, Any] | None], begun: Sequence[int | None]) -> tuple[Point, ...]:
    """Success of the attack alone, at every number of steps at which something was tried."""
    budgets = sorted({steps for part in single if part for steps in part["steps"]})
    queries = [sum(sum(s <= budget for s in part["steps"]) for part in single if part) / len(single) for budget in budgets]
    rates = success_curve(begun, budgets)
    return tuple(Point(budget, asked, rate.value) for budget, asked, rate in zip(budgets, queries, rates, strict=True))


def _rate(hits: Sequence[bool]) -> Rate:
    return clopper_pearson(sum(hits), len(hits))
