"""What a suite makes its figures of: the answers of one trial, and on demand its pictures and raw scores."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from ...prompts.checks import Prompt
from ...scorers.registry import RawScore
from .judge import Judge
from .rates import PairedAnswer, hits_of


@dataclass(frozen=True)
class SuiteFigure:
    """One number of a protocol, beside its value on the unedited model where that is defined."""

    name: str
    value: float
    before: float | None
    n: int
    formula: str
    """In words."""
    interval: tuple[float, float] | None = None
    """95 %, of a share."""
    before_interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class TrialEvidence:
    """What a trial came to: answers, and its pictures before and after by prompt, for measures of the suite's own."""

    concepts: tuple[str, ...]
    answers: tuple[PairedAnswer, ...]
    pictures: Callable[[], Mapping[Prompt, tuple[Tensor, Tensor]]]
    judge: Judge
    raw: Callable[[], Sequence[tuple[RawScore, RawScore]]] = list
    """The judge's raw scores before and after, one an answer."""

    def answers_in(self, group: str) -> list[PairedAnswer]:
        return [answer for answer in self.answers if answer.check.group == group]

    def accuracy(self, group: str) -> tuple[float, float]:
        """Share of the group's pictures, before and after, that show what was asked; the group must have been asked."""
        members = self.answers_in(group)
        before, after = hits_of(members, 0), hits_of(members, 1)
        return sum(before) / len(members), sum(after) / len(members)
