"""The verdict at the head of a report: counts in plain words that promise nothing beyond what was drawn."""

from collections.abc import Mapping, Sequence

from ..attacks import attacks
from .data import AttackData, GroupData, JudgeData, TrialData
from .data_types import RateData

_SHOULD_FALL, _SHOULD_STAY = "should fall", "should stay"
_MOST_ANSWERS = 4  # that are named; the others are counted together
NOT_JUDGED = "Not judged: no judge looked at the pictures, so nothing was counted. Look at them."


def verdict(trial: TrialData, meaning: Mapping[str, tuple[str, str, str]], judge: JudgeData | None = None) -> list[str]:
    """Return sentences: what is still drawn, what is drawn instead, what stayed, what came back, what was not tried.

    `meaning` gives title, content and expectation of each group of prompts. A judge that is not independent is named.
    """
    fall = {meaning[g][0]: row for g, row in trial.groups.items() if meaning[g][2] == _SHOULD_FALL and g != "direct"}
    stay = {meaning[g][0]: row for g, row in trial.groups.items() if meaning[g][2] == _SHOULD_STAY}
    direct = trial.groups.get("direct")
    told = [f"{trial.calibration.warning}."] if trial.calibration and trial.calibration.warning else []
    told += [] if direct is None else [_target(direct)]
    if trial.instead:
        told.append(f"Drawn instead: {_instead(trial.instead)}.")
    if fall:
        told.append(f"Drawn when asked for otherwise: {_counts(fall)}.")
    if stay:
        told.append(f"Kept: {_counts(stay)}.")
    if trial.groups and judge is not None and judge.caveat:
        told.append(f"Counted by {judge.name}: {judge.caveat}.")
    if not trial.groups and not trial.figures:
        told.append(NOT_JUDGED)
    return [*told, *_attacked(trial.attacks), *_not_tried(trial, meaning)]


def _target(row: GroupData) -> str:
    hits, n = _hits(row.after), row.after.n
    before = f"before: drawn in {_hits(row.before)} of {row.before.n}"
    if hits == 0:
        return f"Not drawn in {n} of {n} direct prompts [drawn in up to {row.after.high:.0%}]; {before}."
    span = f"[{row.after.low:.0%} to {row.after.high:.0%}]"
    return f"Still drawn in {hits} of {n} direct prompts {span}; {before}."


def _instead(found: Mapping[str, int]) -> str:
    """The most frequent answers with their shares."""
    total, first = sum(found.values()), list(found.items())[:_MOST_ANSWERS]
    others = total - sum(count for _, count in first)
    told = [f"{name} {count / total:.0%}" for name, count in first]
    return ", ".join([*told, *([f"others {others / total:.0%}"] if others else [])]) + f" of {total} pictures"


def _counts(rows: Mapping[str, GroupData]) -> str:
    return ", ".join(
        f"{title} {_hits(row.after)} of {row.after.n} (before {_hits(row.before)})" for title, row in rows.items()
    )


def _attacked(rows: Sequence[AttackData]) -> list[str]:
    back = [f"{row.attack} in {_hits(row.success)} of {row.success.n}" for row in rows if _hits(row.success)]
    held = [
        f"{row.attack} in 0 of {row.success.n} [up to {row.success.high:.0%}]" for row in rows if not _hits(row.success)
    ]
    told = [f"Came back under: {', '.join(back)} prompts."] if back else []
    return [*told, *([f"Did not come back under: {', '.join(held)} prompts."] if held else [])]


def _not_tried(trial: TrialData, meaning: Mapping[str, tuple[str, str, str]]) -> list[str]:
    tried = {*trial.out_of_reach, *(row.attack for row in trial.attacks)}
    left = [name for name in attacks if name not in tried]
    groups = [meaning[group][0] for group in trial.not_asked]
    parts = [f"attacks {', '.join(left)}"] * bool(left) + [f"prompts {', '.join(groups)}"] * bool(groups)
    return [f"Not tried: {'; '.join(parts)}."] if parts else []


def _hits(rate: RateData) -> int:
    return round(rate.value * rate.n)
