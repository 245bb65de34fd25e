"""Suites: which prompts are asked, how many, what is made of the answers, which attacks are run. One registry.

A protocol of its own lives in a file `suite_*.py`, found by its name.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from torch import Tensor

from ...core.errors import RequestError
from ...core.registry import Registry
from ...edits.base import Origin
from ...prompts.checks import Check, Prompt, Sizes
from ...scorers.registry import Raw
from ..judging.judge import Judge
from ..judging.rates import Answer


@dataclass(frozen=True)
class Figure:
    """One number of a protocol, beside its value on the unedited model where that is defined."""

    name: str
    value: float
    before: float | None
    n: int
    formula: str  # in words
    interval: tuple[float, float] | None = None  # 95 %, of a share
    before_interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Evidence:
    """What a trial came to: answers, and its pictures before and after by prompt, for measures of the suite's own."""

    concepts: tuple[str, ...]
    answers: tuple[Answer, ...]
    pictures: Callable[[], Mapping[Prompt, tuple[Tensor, Tensor]]]
    judge: Judge = Judge()
    raw: Callable[[], Sequence[tuple[Raw, Raw]]] = list  # the judge's raw scores before and after, one an answer

    def of(self, group: str) -> list[Answer]:
        return [answer for answer in self.answers if answer.check.group == group]

    def accuracy(self, group: str) -> tuple[float, float]:
        """Share of the group's pictures, before and after, that show what was asked; the group must have been asked."""
        members = self.of(group)
        before, after = (sum(answer.shown[side] for answer in members) / len(members) for side in (0, 1))
        return before, after


def no_figures(found: Evidence) -> list[Figure]:
    """The groups' rates say it all."""
    return []


@dataclass(frozen=True)
class Suite:
    """What a protocol asks about an edit that erased some concepts, and what it makes of the answers.

    `ask` is its setting for `moji`. On other models it is the paper's own, `real`, or what the edits were made with, `told`,
    or the paper's prompt file.
    """

    name: str
    summary: str
    sizes: Sizes
    ask: Callable[[Sequence[str], Sizes], list[Check]]
    figures: Callable[[Evidence], list[Figure]] = no_figures
    attacks: tuple[str, ...] = ()  # names; "*" is all
    attacked: int = 8  # prompts each attack is given
    stepwise: bool = False  # edit number k is asked about the first k concepts
    real: Callable[[Sequence[str], Sizes], list[Check]] | None = None  # the paper's questions to any model
    told: Callable[[Sequence[Origin], Sequence[str], Sizes], list[Check]] | None = None  # questions to any model, from its edits' headers
    spec: str | None = None  # how the paper draws them; None: the model's default
    meaning: Mapping[str, tuple[str, str, str]] = field(default_factory=dict)  # what its groups are, where not as everywhere: name, sentence, what it should do

    def checks(self, concepts: Sequence[str]) -> list[Check]:
        """Its questions about these concepts."""
        return self.ask(concepts, self.sizes)

    def sized(self, limit: int | None, seed: int) -> "Suite":
        """The same suite with at most `limit` prompts a group, from other noise."""
        attacked = self.attacked if limit is None else min(self.attacked, limit)
        return replace(self, sizes=replace(self.sizes.limited(limit), seed=seed), attacked=attacked)


def of_edits(suite: Suite, origins: Sequence[Origin]) -> Suite:
    """A suite that can be `told` what edits were made with, for a model without a table."""
    if suite.told is None:
        raise RequestError(f"suite {suite.name} asks other models its published prompts: give their file with --prompts")
    return replace(suite, ask=partial(suite.told, origins))


suites: Registry[Suite] = Registry("suite")
