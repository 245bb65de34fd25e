"""The suites that ask in the glossary's groups: the concept and its words, near and far objects, styles."""

from collections.abc import Sequence
from dataclasses import replace

from ...prompts.checks import Check, Sizes, moji_checks
from ...worlds.table import table
from ..judging.image_metrics import quality
from .registry import Suite, suites


def in_groups(concepts: Sequence[str], sizes: Sizes) -> list[Check]:
    """Prompts in the glossary's groups: the concepts and their words, near and far objects, styles."""
    return moji_checks(table(), concepts, sizes)


def shared(concepts: Sequence[str], sizes: Sizes) -> list[Check]:
    """The same, with each group's prompts shared among the concepts that are erased together, one each at least."""
    direct, other = (-(-count // max(1, len(concepts))) for count in (sizes.direct, sizes.other))
    return in_groups(concepts, replace(sizes, direct=direct, other=other))


for _suite in (
    Suite("smoke", "under a minute: 4 prompts a group, no attack", Sizes(4, 4), in_groups, quality),
    Suite("erase", "what `unconcept erase` asks: 24 target prompts, 12 in each other group", Sizes(24, 12), in_groups, quality),
    Suite(
        "quick",
        "minutes: 48 prompts a group, the cheapest attacks",
        Sizes(48, 48),
        in_groups,
        quality,
        attacks=("wordings", "derived-embedding"),
    ),
    Suite("results", "what the tables in docs/ are made of: 28 prompts a group, pooled over many concepts", Sizes(28, 28), in_groups, quality),
    Suite("together", "48 prompts a group in all, shared among concepts that are erased together", Sizes(48, 48), shared, quality),
    Suite("tuning", "12 prompts a group on given words and other seeds: the only one that may choose settings", Sizes(12, 8, tuning=True), in_groups, quality),
    Suite("attack", "what `unconcept attack` asks: 8 target prompts, and the attacks named", Sizes(8, 0), in_groups, quality, attacks=("*",)),
    Suite("standard", "under an hour: 200 prompts a group and every attack", Sizes(200, 200), in_groups, quality, attacks=("*",), attacked=16),
):
    suites.register(_suite.name)(_suite)
