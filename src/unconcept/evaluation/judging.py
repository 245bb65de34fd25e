"""From pictures to rates: each check is asked before and after, on the same noise, and counted in its group."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..metrics.rates import Rate, clustered, clustered_share, wilson
from ..prompts.checks import Check, Prompt
from ..prompts.sets import GROUPS, Group
from ..scorers.moji_judge import NOTHING
from .judges import Judge


@dataclass(frozen=True)
class Answer:
    """One check, answered on the unedited and on the edited model's picture."""

    check: Check
    before: str  # the judge's word
    after: str

    @property
    def shown(self) -> tuple[bool, bool]:
        """Whether the pictures before and after show what was asked."""
        return self.before in self.check.labels, self.after in self.check.labels


def words(judge: Judge, checks: Sequence[Check], pictures: Mapping[Prompt, Tensor]) -> list[str]:
    """The judge's word on each check's picture (3, h, w)."""
    rows = judge.open().score(torch.stack([pictures[check.prompt] for check in checks]), [judge.question(check) for check in checks])
    return [judge.word(raw, check) for raw, check in zip(rows, checks, strict=True)]


@dataclass(frozen=True)
class Row:
    """One group: how often the pictures show what was asked, before, after, and the paired difference."""

    group: Group
    before: Rate
    after: Rate
    change: Rate  # after - before, paired; in [-1, 1]
    nothing: Rate  # share of the edited model's pictures that show nothing the judge knows


def tabulate(answers: Sequence[Answer], by_concept: bool = False) -> list[Row]:
    """Rows for the groups that were asked. With `by_concept`, intervals resample concepts; else pictures are independent."""
    rows = []
    for group in GROUPS:
        members = [a for a in answers if a.check.group == group]
        if not members:
            continue
        clusters = [a.check.concept for a in members] if by_concept else [str(i) for i in range(len(members))]
        sides = [[a.shown[i] for a in members] for i in (0, 1)]
        nothing = [a.after == NOTHING for a in members]
        change = clustered([after - before for before, after in zip(*sides, strict=True)], clusters)
        before, after, none = (_rate(values, clusters if by_concept else None) for values in (*sides, nothing))
        rows.append(Row(group, before, after, change, none))
    return rows


@dataclass(frozen=True)
class Calibration:
    """How far the judge can be trusted here: its word on the unedited model's pictures."""

    true_positive: Rate  # pictures asked for a target by name that it says show it
    false_positive: Rate | None  # pictures asked for something else that it says show a target
    nothing: Rate  # pictures of any prompt in which it knows nothing


def calibrate(answers: Sequence[Answer]) -> Calibration:
    """Rates over the pictures before the edit. The target's own head is asked: objects by object, styles by style."""
    direct = [a for a in answers if a.check.group == "direct"]
    labels = {label for a in direct for label in a.check.labels}
    others = [a for a in answers if a.check.by == direct[0].check.by and not labels & set(a.check.labels)]
    found = [a.shown[0] for a in direct]
    false = [a.before in labels for a in others]
    nothing = [a.before == NOTHING for a in answers]
    return Calibration(_rate(found, None), _rate(false, None) if false else None, _rate(nothing, None))


def _rate(values: Sequence[bool], clusters: Sequence[str] | None) -> Rate:
    return wilson(sum(values), len(values)) if clusters is None else clustered_share(values, clusters)
