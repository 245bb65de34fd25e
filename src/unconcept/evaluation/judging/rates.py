"""Turns pictures into rates: each check is judged before and after, on the same noise, and counted in its group."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...metrics.intervals import Rate, clustered_mean, clustered_share, wilson
from ...metrics.paired_tests import detectable_change, holm, mcnemar, sign_flip
from ...prompts.checks import Check, Prompt
from ...prompts.sets import PROMPT_GROUPS, PromptGroup
from ...scorers import NOTHING_LABEL
from .judge import Judge

_NOWHERE, _EVERYWHERE = 0.1, 0.9  # rates on the unedited model from which a judge is flagged


@dataclass(frozen=True)
class PairedAnswer:
    """One check with the judge's answers for the pictures of the unedited and of the edited model."""

    check: Check
    before: str
    """The judge's answer."""
    after: str

    @property
    def hits(self) -> tuple[bool, bool]:
        """Whether the pictures before and after show what the prompt asks for."""
        return self.before in self.check.labels, self.after in self.check.labels


def hits_of(answers: Sequence[PairedAnswer], side: int) -> list[bool]:
    """Whether each picture before (0) or after (1) shows what the prompt asks for."""
    return [answer.hits[side] for answer in answers]


def drawn_instead(answers: Sequence[PairedAnswer]) -> dict[str, int]:
    """Count the judge's answers to pictures asked for a target that showed it before and do not after, most frequent
    first.
    """
    lost = [answer.after for answer in answers if answer.check.group == "direct" and answer.hits == (True, False)]
    return dict(Counter(lost).most_common())


def judge_labels(judge: Judge, checks: Sequence[Check], pictures: Mapping[Prompt, Tensor]) -> list[str]:
    """Judge the picture (3, h, w) of each check."""
    rows = judge.open().score(
        torch.stack([pictures[check.prompt] for check in checks]), [judge.question(check) for check in checks]
    )
    return [judge.label_of(raw, check) for raw, check in zip(rows, checks, strict=True)]


@dataclass(frozen=True)
class GroupRow:
    """Rates of one group: how often pictures show what the prompt asks for, before and after, and the paired change."""

    group: PromptGroup
    before: Rate
    after: Rate
    change: Rate
    """After - before, paired; in [-1, 1]."""
    nothing: Rate
    """Share of the edited model's pictures in which the judge recognises nothing."""
    p: float | None
    """P-value of "no change": McNemar's exact test, or sign flips of whole clusters; Holm's correction over groups.

    None if the test cannot reach significance on so few.
    """
    detectable: float | None
    """The smallest true change that the test finds with a probability of 80 %, if all of it goes one way and a cluster
    changes as a whole; None if it can find none."""


def group_rates(answers: Sequence[PairedAnswer], clusters: Sequence[str] | None = None) -> list[GroupRow]:
    """Compute rows for the groups that have answers. `clusters[i]` names the cluster of answer i, such as the erased
    concept.

    Intervals and tests then resample whole clusters; without clusters, pictures count as independent.
    """
    rows = []
    for group in PROMPT_GROUPS:
        members = [i for i, a in enumerate(answers) if a.check.group == group]
        if members:
            rows.append(
                _row(group, [answers[i] for i in members], [clusters[i] for i in members] if clusters else None)
            )
    corrected = holm({row.group: row.p for row in rows if row.p is not None})
    return [_tested(row, corrected[row.group], len(rows)) for row in rows]


def _tested(row: GroupRow, p: float, tests: int) -> GroupRow:
    """The row with its corrected p, if so many tests leave it one that can be significant."""
    detectable = detectable_change(row.change.clusters or row.change.n, tests)
    return replace(row, p=None if detectable is None else p, detectable=detectable)


def _row(group: PromptGroup, members: Sequence[PairedAnswer], clusters: Sequence[str] | None) -> GroupRow:
    """The row before the correction for the other groups."""
    before, after = hits_of(members, 0), hits_of(members, 1)
    nothing = [answer.after == NOTHING_LABEL for answer in members]
    differences = [float(new) - float(old) for old, new in zip(before, after, strict=True)]
    change = clustered_mean(differences, clusters or [str(i) for i in range(len(members))])
    p = sign_flip(differences, clusters) if clusters else mcnemar(before, after).p
    old, new, unknown = (_rate(values, clusters) for values in (before, after, nothing))
    return GroupRow(group, old, new, change, unknown, p, None)


@dataclass(frozen=True)
class JudgeCalibration:
    """Accuracy of the judge on the unedited model's pictures: how far its rates can be trusted."""

    true_positive: Rate
    """Share of pictures drawn for a target's name in which the judge finds the target."""
    false_positive: Rate | None
    """Share of pictures drawn for something else in which the judge finds a target."""
    nothing: Rate
    """Share of pictures of any prompt in which the judge recognises nothing."""

    @property
    def warning(self) -> str:
        """What makes the judge's rates worthless: it finds the target nowhere, or everywhere; "" if neither."""
        found, false = self.true_positive, self.false_positive
        if found.value <= _NOWHERE:
            seen = f"{round(found.value * found.n)} of {found.n} pictures drawn for it before the edit"
        elif false is not None and false.value >= _EVERYWHERE:
            seen = f"{round(false.value * false.n)} of {false.n} pictures drawn for something else"
        else:
            return ""
        return f"The judge finds the target in {seen}: its counts say nothing"

    def __str__(self) -> str:
        """The sentence printed with every table of rates."""
        others = f", sees it in {self.false_positive} of {self.false_positive.n} others" if self.false_positive else ""
        found, nothing = self.true_positive, self.nothing
        seen = (
            f"finds the target in {found} of the {found.n} pictures asked for it{others}, and nothing in {nothing} of"
            f" all {nothing.n}"
        )
        warned = f" {self.warning}." if self.warning else ""
        return f"On the unedited model the judge {seen}.{warned}"


def calibrate_judge(*asked: Sequence[PairedAnswer]) -> JudgeCalibration:
    """Compute the judge's rates on pictures before the edit. Answers of several requests form one cluster per request.

    Only checks of the targets' own aspect count, object or style.
    """
    found: list[tuple[str, bool]] = []
    false: list[tuple[str, bool]] = []
    for number, answers in enumerate(asked):
        direct = [a for a in answers if a.check.group == "direct"]
        labels = {label for a in direct for label in a.check.labels}
        others = [a for a in answers if a.check.by == direct[0].check.by and not labels & set(a.check.labels)]
        found += [(str(number), a.hits[0]) for a in direct]
        false += [(str(number), a.before in labels) for a in others]
    nothing = [(str(number), a.before == NOTHING_LABEL) for number, answers in enumerate(asked) for a in answers]
    clustered = len(asked) > 1
    false_positive = _rate_of(false, clustered) if false else None
    return JudgeCalibration(_rate_of(found, clustered), false_positive, _rate_of(nothing, clustered))


def _rate_of(hits: Sequence[tuple[str, bool]], clustered: bool) -> Rate:
    """The rate of (cluster, hit) pairs."""
    return _rate([hit for _, hit in hits], [name for name, _ in hits] if clustered else None)


def _rate(values: Sequence[bool], clusters: Sequence[str] | None) -> Rate:
    return wilson(sum(values), len(values)) if clusters is None else clustered_share(values, clusters)
