"""Suites: which prompts are asked, how many, what is made of the answers, which attacks are run. One registry.

A protocol of its own lives in a file `suite_*.py`, found by its name.
"""

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from ..core.registry import Registry
from ..moji.table import table
from ..prompts.checks import Check, Prompt, Sizes, moji_checks
from .judging import Answer


@dataclass(frozen=True)
class Figure:
    """One number of a protocol, beside its value on the unedited model where that is defined."""

    name: str
    value: float
    before: float | None
    n: int
    formula: str  # in words


@dataclass(frozen=True)
class Evidence:
    """What a trial came to: answers, and its pictures before and after by prompt, for scorers of the suite's own."""

    concepts: tuple[str, ...]
    answers: tuple[Answer, ...]
    pictures: Callable[[], Mapping[Prompt, tuple[Tensor, Tensor]]]

    def of(self, group: str) -> list[Answer]:
        return [answer for answer in self.answers if answer.check.group == group]


def in_groups(concepts: Sequence[str], sizes: Sizes) -> list[Check]:
    """Prompts in the glossary's groups: the concepts and their words, near and far objects, styles."""
    return moji_checks(table(), concepts, sizes)


def no_figures(found: Evidence) -> list[Figure]:
    """The groups' rates say it all."""
    return []


@dataclass(frozen=True)
class Suite:
    """What a protocol asks about an edit that erased some concepts of `moji`, and what it makes of the answers."""

    name: str
    summary: str
    sizes: Sizes
    ask: Callable[[Sequence[str], Sizes], list[Check]] = in_groups
    figures: Callable[[Evidence], list[Figure]] = no_figures
    attacks: tuple[str, ...] = ()  # names; "*" is all
    attacked: int = 8  # prompts each attack is given
    stepwise: bool = False  # edit number k is asked about the first k concepts

    def checks(self, concepts: Sequence[str]) -> list[Check]:
        """Its questions about these concepts."""
        return self.ask(concepts, self.sizes)

    def sized(self, limit: int | None, seed: int) -> "Suite":
        """The same suite with at most `limit` prompts a group, from other noise."""
        attacked = self.attacked if limit is None else min(self.attacked, limit)
        return replace(self, sizes=replace(self.sizes.limited(limit), seed=seed), attacked=attacked)


suites: Registry[Suite] = Registry("suite")
for _suite in (
    Suite("smoke", "under a minute: 4 prompts a group, no attack", Sizes(4, 4)),
    Suite("erase", "what `unconcept erase` asks: 24 target prompts, 12 in each other group", Sizes(24, 12)),
    Suite("quick", "minutes: 48 prompts a group and the attacks that cost next to nothing", Sizes(48, 48), attacks=("wordings", "derived-embedding")),
    Suite("results", "what the tables in docs/ are made of: 28 prompts a group, pooled over many concepts", Sizes(28, 28)),
    Suite("tuning", "12 prompts a group on given words and other seeds: the only one that may choose settings", Sizes(12, 8, tuning=True)),
    Suite("attack", "what `unconcept attack` asks: 8 target prompts, and the attacks named", Sizes(8, 0), attacks=("*",)),
    Suite("standard", "under an hour: 200 prompts a group and every attack", Sizes(200, 200), attacks=("*",), attacked=16),
):
    suites.register(_suite.name)(_suite)

for _file in pkgutil.iter_modules([str(Path(__file__).parent)]):
    if _file.name.startswith("suite_"):
        importlib.import_module(f"{__package__}.{_file.name}")
