"""Damage where it hides: counting, left and right, which background belongs to what, and the variety of seeds.

Every question is about what was not erased. Only pictures that were right before the edit can lose anything.
"""

from collections.abc import Sequence

from ...core.errors import SettingsError, require
from ...metrics.intervals import wilson
from ...prompts.checks import Check, GroupSizes, JudgedAspect, moji_checks
from ...prompts.sets import GROUP_NAMES, PromptGroup
from ...worlds.scenes import COUNTS, count_phrase, one_phrase, pair_phrase, scene_caption, scene_words
from ...worlds.table import concept_table
from ..judging.evidence import SuiteFigure, TrialEvidence
from ..judging.image_metrics import kept_variety, stack_images
from ..judging.judge import Judge, image_measures
from .registry import Suite, suites

_GROUPS: tuple[PromptGroup, ...] = ("near", "far", "co-occurring", "background", "count", "order")
_ASPECTS: frozenset[JudgedAspect] = frozenset({"background", "count", "left-right"})
_THINGS = ("bicycle", "teapot", "umbrella", "chair", "lantern", "clock")
_GROUNDS = ("red", "blue", "green", "yellow")


def damage_checks(concepts: Sequence[str], sizes: GroupSizes) -> list[Check]:
    """Make the checks of everything but the targets: neighbours, far objects, what stands beside a target, scenes."""
    return [check for check in moji_checks(concept_table(), concepts, sizes) if check.group in _GROUPS]


def damage_in_general(concepts: Sequence[str], sizes: GroupSizes) -> list[Check]:
    """Make questions about everyday things for any model: two seeds a prompt, at most `sizes.other` a group, none about
    the concepts.
    """
    asked = {name.casefold() for name in concepts}
    things = [name for name in _THINGS if name not in asked]
    made = []
    for i in range(min(sizes.other, 2 * len(things))):
        name, other, seed = things[i // 2], things[(i // 2 + 1) % len(things)], i % 2
        plain = sizes.prompt(one_phrase(name), seed)
        ground = _GROUNDS[i // 2 % len(_GROUNDS)]
        scene = sizes.prompt(scene_caption(one_phrase(name), background=ground), seed)
        number, plural = 2 + i // 2 % 2, scene_words().plural(name)
        counted = sizes.prompt(count_phrase(plural, number), seed)
        pair = sizes.prompt(pair_phrase(name, other, "left of"), seed)
        made += [
            Check(plain, "far", name, "object", (name,)),
            Check(scene, "background", name, "background", (ground,)),
            Check(counted, "count", name, "count", (COUNTS[number],), wording=plural),
            Check(pair, "order", name, "left-right", (f"{name} left of {other}",)),
        ]
    return made


def damage_figures(found: TrialEvidence) -> list[SuiteFigure]:
    """Compute for each group the share of right pictures that the edit made wrong, and the variety of seeds."""
    made = []
    for group in _GROUPS:
        shown = [answer for answer in found.answers_in(group) if answer.hits[0]]
        if shown:
            rate = wilson(sum(not answer.hits[1] for answer in shown), len(shown))
            formula = "wrong after the edit, of the pictures that were right before it"
            made.append(
                SuiteFigure(f"lost, {GROUP_NAMES[group]}", rate.value, 0.0, rate.n, formula, (rate.low, rate.high))
            )
    return made + _variety(found)


def _variety(found: TrialEvidence) -> list[SuiteFigure]:
    """How far pictures of one far prompt from different noise still differ."""
    prompts = list(dict.fromkeys(answer.check.prompt for answer in found.answers_in("far")))
    if not prompts:
        return []
    pictures, texts = found.pictures(), [prompt.text for prompt in prompts]
    before, after = (stack_images(pictures, prompts, side) for side in (0, 1))
    return kept_variety(image_measures(found.judge), "far", before, after, texts)


def damage_notes(found: TrialEvidence) -> dict[str, str]:
    """Say which question nobody could answer."""
    if image_measures(found.judge).pair is not None:
        return {}
    return {"variety of seeds": "not measured: give a distance of pictures, --measure lpips=FILE"}


def require_scene_judge(judge: Judge) -> None:
    """Raise `SettingsError` for a judge that tells neither counts nor backgrounds nor an order."""
    message = (
        f"suite damage asks about counts, backgrounds and left and right, which {judge.scorer} does not tell: name a"
        " judge that does, --judge vlm=FOLDER"
    )
    require(judge.reader.aspects >= _ASPECTS, message, SettingsError)


suites.register("damage")(
    Suite(
        "damage",
        "what an edit makes wrong elsewhere: neighbours, objects beside the target, background, count, left and right,"
        " variety of seeds; 48 prompts a group",
        GroupSizes(0, 48),
        damage_checks,
        damage_figures,
        notes=damage_notes,
        published_questions=damage_in_general,
        require_judge=require_scene_judge,
    )
)
