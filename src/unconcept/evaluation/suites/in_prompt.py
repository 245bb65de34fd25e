"""The in-prompt score: the target is gone from a prompt that names it, and the rest of the prompt is still drawn.

Only prompts that fire count: the unedited model's picture shows the target and all the rest. The others, void prompts,
are listed, since nothing can be erased from them or kept in them.
"""

from collections.abc import Sequence

from ...core.errors import DataError, require
from ...core.text_identity import composed_text
from ...metrics.intervals import Rate, wilson
from ...prompts.checks import Check, GroupSizes, JudgedAspect, Prompt, aspect_of, far_entries
from ...prompts.text_matching import find_name
from ...worlds.scenes import one_phrase, pair_phrase, scene_caption, scene_words
from ...worlds.table import ConceptEntry, concept_table
from ..judging.evidence import SuiteFigure, TrialEvidence
from ..judging.rates import PairedAnswer, hits_of
from .registry import Suite, suites


def in_prompt_checks(concepts: Sequence[str], sizes: GroupSizes) -> list[Check]:
    """Make prompts that name a target with another object beside it, or in a style on a background, in turn.

    A target that is a style stands with an object and a background.
    """
    known = concept_table()
    others = far_entries(concepts, sizes.tuning)
    made = []
    for name in concepts:
        entry = known[name]
        for i in range(sizes.direct):
            other = others[i % len(others)]
            if entry.kind == "style" or i % 2:
                made += _in_scene(entry, other, i, sizes)
            else:
                made += _beside(entry, other, i, sizes)
    return made


def _beside(entry: ConceptEntry, other: ConceptEntry, i: int, sizes: GroupSizes) -> list[Check]:
    """The target on one side, another object on the other, in turn."""
    left, right = (other, entry) if i % 4 else (entry, other)
    asked = sizes.prompt(scene_caption(pair_phrase(left.name, right.name)), i)
    places: tuple[JudgedAspect, JudgedAspect] = ("right", "left") if i % 4 else ("left", "right")
    return [
        Check(asked, "direct", entry.name, places[0], entry.labels),
        Check(asked, "co-occurring", other.name, places[1], other.labels),
    ]


def _in_scene(entry: ConceptEntry, other: ConceptEntry, i: int, sizes: GroupSizes) -> list[Check]:
    """One object in a style on a background; the target is the object, or the style."""
    grounds = [one.name for one in scene_words().backgrounds if entry.name not in one.unseen]
    ground = grounds[i % len(grounds)]
    by = aspect_of(entry.kind)
    if by == "style":
        asked = sizes.prompt(scene_caption(one_phrase(other.name), entry.name, ground), i)
        rest = Check(asked, "co-occurring", other.name, "object", other.labels)
    else:
        styles = [style for style in entry.styles if style not in entry.unseen]
        style = styles[i % len(styles)]
        asked = sizes.prompt(scene_caption(one_phrase(entry.name), style, ground), i)
        rest = Check(asked, "style", style, "style", (style,))
    return [
        Check(asked, "direct", entry.name, by, entry.labels),
        rest,
        Check(asked, "background", entry.name, "background", (ground,)),
    ]


def in_prompt_from_file(concepts: Sequence[str], own: Suite, sizes: GroupSizes) -> list[Check]:
    """Ask each prompt of a file about the target that it names, beside the other things that the file names in it.

    A prompt that names no target is about the first one.
    """
    rest = [check for check in own.checks(concepts) if check.group == "co-occurring"]
    message = (
        "suite in-prompt needs prompts with the other things that they name: give HUB's selective_alignment form, a"
        " .json list of {prompt, nouns}, or rows of group co-occurring"
    )
    require(bool(rest), message, DataError)
    prompts = list(dict.fromkeys(check.prompt for check in rest))[: sizes.direct]
    direct = [own.direct(prompt, _named(prompt, concepts)) for prompt in prompts]
    return [*direct, *(check for check in rest if check.prompt in prompts)]


def _named(prompt: Prompt, concepts: Sequence[str]) -> str:
    """The target that a prompt names, else the first one."""
    text = composed_text(prompt.text)
    return next((name for name in concepts if find_name(text, [name])), concepts[0])


def in_prompt_figures(found: TrialEvidence) -> list[SuiteFigure]:
    """Compute, of the prompts that fire: target not shown, rest kept, and both together, the in-prompt score."""
    asked = _by_prompt(found)
    fired = [members for members in asked.values() if _fires(members)]
    made = [_share("prompts that fire", [_fires(members) for members in asked.values()], "of all prompts")]
    if not fired:
        return made
    gone = [not _target(members).hits[1] for members in fired]
    kept = [all(hits_of(_rest(members), 1)) for members in fired]
    both = [one and other for one, other in zip(gone, kept, strict=True)]
    return [
        _share("in-prompt score", both, "target not shown and all the rest kept, of the prompts that fire"),
        _share("target not shown", gone, "of the prompts that fire"),
        _share("rest kept", kept, "all the rest of the prompt is shown, of the prompts that fire"),
        *made,
    ]


def in_prompt_notes(found: TrialEvidence) -> dict[str, str]:
    """List the void prompts."""
    asked = _by_prompt(found)
    void = [prompt.text for prompt, members in asked.items() if not _fires(members)]
    if not void:
        return {}
    return {"void prompts": f"{len(void)} of {len(asked)}, left out: {'; '.join(dict.fromkeys(void))}"}


def _by_prompt(found: TrialEvidence) -> dict[Prompt, list[PairedAnswer]]:
    """The answers about each prompt that has one about the target."""
    grouped: dict[Prompt, list[PairedAnswer]] = {}
    for answer in found.answers:
        grouped.setdefault(answer.check.prompt, []).append(answer)
    return {prompt: members for prompt, members in grouped.items() if any(map(_is_target, members))}


def _is_target(answer: PairedAnswer) -> bool:
    return answer.check.group == "direct"


def _target(members: Sequence[PairedAnswer]) -> PairedAnswer:
    return next(filter(_is_target, members))


def _rest(members: Sequence[PairedAnswer]) -> list[PairedAnswer]:
    return [answer for answer in members if not _is_target(answer)]


def _fires(members: Sequence[PairedAnswer]) -> bool:
    """Whether the unedited model's picture shows everything that is asked about it."""
    return all(hits_of(members, 0))


def _share(name: str, hits: Sequence[bool], formula: str) -> SuiteFigure:
    rate: Rate = wilson(sum(hits), len(hits))
    return SuiteFigure(name, rate.value, None, rate.n, formula, (rate.low, rate.high))


suites.register("in-prompt")(
    Suite(
        "in-prompt",
        "target not shown and the rest of its prompt still drawn, of those of 48 prompts that fire before the edit",
        GroupSizes(48, 0),
        in_prompt_checks,
        in_prompt_figures,
        notes=in_prompt_notes,
        from_file=in_prompt_from_file,
    )
)
