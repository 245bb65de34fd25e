"""Suites with the standard prompt groups: the concept and its wordings, near and far objects, styles."""

from collections.abc import Sequence
from dataclasses import replace

from ...prompts.checks import Check, GroupSizes, moji_checks
from ...worlds.table import concept_table
from ..judging.image_metrics import image_quality_figures
from .registry import Suite, suites


def group_checks(concepts: Sequence[str], sizes: GroupSizes) -> list[Check]:
    """Make checks in the standard prompt groups: the concepts and their wordings, near and far objects, styles."""
    return moji_checks(concept_table(), concepts, sizes)


def shared_group_checks(concepts: Sequence[str], sizes: GroupSizes) -> list[Check]:
    """Make the same checks, with each group's prompts divided among concepts that are erased together, at least one
    each.
    """
    direct, other = (-(-count // max(1, len(concepts))) for count in (sizes.direct, sizes.other))
    return group_checks(concepts, replace(sizes, direct=direct, other=other))


for _suite in (
    Suite(
        "smoke",
        "under a minute: 4 prompts a group, no attack",
        GroupSizes(4, 4),
        group_checks,
        image_quality_figures,
        in_groups=True,
    ),
    Suite(
        "erase",
        "the check of `unconcept erase`: 24 target prompts, 12 in each other group",
        GroupSizes(24, 12),
        group_checks,
        image_quality_figures,
        in_groups=True,
    ),
    Suite(
        "quick",
        "minutes: 48 prompts a group, the cheapest attacks",
        GroupSizes(48, 48),
        group_checks,
        image_quality_figures,
        in_groups=True,
        attacks=("wordings", "derived-embedding"),
    ),
    Suite(
        "results",
        "the tables in docs/: 28 target prompts, 14 in each other group, pooled over concepts",
        GroupSizes(28, 14),
        group_checks,
        image_quality_figures,
        in_groups=True,
    ),
    Suite(
        "together",
        "48 prompts a group in total, divided among concepts that are erased together",
        GroupSizes(48, 48),
        shared_group_checks,
        image_quality_figures,
        in_groups=True,
    ),
    Suite(
        "tuning",
        "12 prompts a group on given words and tuning seeds: for choosing settings",
        GroupSizes(12, 8, tuning=True),
        group_checks,
        image_quality_figures,
        in_groups=True,
    ),
    Suite(
        "tuning-together",
        "48 prompts a group in total on given words and tuning seeds, divided among concepts that are erased together",
        GroupSizes(48, 48, tuning=True),
        shared_group_checks,
        image_quality_figures,
        in_groups=True,
    ),
    Suite(
        "attack",
        "the check of `unconcept attack`: 8 target prompts and the named attacks",
        GroupSizes(8, 0),
        group_checks,
        image_quality_figures,
        in_groups=True,
        attacks=("*",),
    ),
    Suite(
        "standard",
        "under an hour: 200 prompts a group and every attack",
        GroupSizes(200, 200),
        group_checks,
        image_quality_figures,
        in_groups=True,
        attacks=("*",),
        prompts_per_attack=16,
    ),
):
    suites.register(_suite.name)(_suite)
