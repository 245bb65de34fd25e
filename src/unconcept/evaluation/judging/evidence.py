"""The data from which a suite computes its figures: answers of one trial and, on demand, pictures and raw scores."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ...prompts.checks import Prompt
from ...scorers.registry import RawScore
from .judge import Judge
from .rates import PairedAnswer, hits_of


@dataclass(frozen=True)
class SuiteFigure:
    """One number of a protocol, with its value on the unedited model where that is defined."""

    name: str
    value: float
    before: float | None
    n: int
    formula: str
    """The formula in words."""
    interval: tuple[float, float] | None = None
    """95 % interval of a share."""
    before_interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class TrialEvidence:
    """Results of a trial: answers, and pictures before and after by prompt, from which a suite computes its figures."""

    concepts: tuple[str, ...]
    answers: tuple[PairedAnswer, ...]
    pictures: Callable[[], Mapping[Prompt, tuple[Tensor, Tensor]]]
    judge: Judge
    raw: Callable[[], Sequence[tuple[RawScore, RawScore]]] = list
    """Loads the judge's raw scores before and after, one pair per answer."""
    drawn: tuple[Prompt, ...] = ()
    """Prompts that were drawn but that no judge was asked about; `pictures` holds them too."""
    references: Path | None = None
    """The user's folder of real pictures; None if there is none."""

    def answers_in(self, group: str) -> list[PairedAnswer]:
        return [answer for answer in self.answers if answer.check.group == group]

    def accuracy(self, group: str) -> tuple[float, float]:
        """Share of the group's pictures, before and after, that show what the prompt asks for. The group must have
        answers.
        """
        members = self.answers_in(group)
        before, after = hits_of(members, 0), hits_of(members, 1)
        return sum(before) / len(members), sum(after) / len(members)
