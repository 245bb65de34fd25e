"""Measures how often pictures of a neutral caption show each attribute, before and after, for debiased and other
concepts.

On `moji` concepts are professions, and attributes are the variants in which they are drawn. On other models the headers
of the edits name the balanced attributes, and a zero-shot judge chooses among these only.
"""

from collections.abc import Sequence

from ...core.concept import KIND_TEMPLATES
from ...core.errors import RequestError, require
from ...core.text_identity import distinct_texts, folded_text
from ...edits.base import EditOrigin
from ...metrics.intervals import Rate, wilson
from ...prompts.checks import Check, GroupSizes
from ...prompts.sets import PromptGroup
from ...worlds.scenes import object_caption
from ...worlds.table import ConceptEntry, concept_table
from ..judging.evidence import SuiteFigure, TrialEvidence
from ..judging.judge import Judge
from .registry import Suite, suites

_SHARE_FORMULA = "of the pictures of its neutral caption that show any of the attributes, Wilson's interval"


def debias_checks(concepts: Sequence[str], sizes: GroupSizes) -> list[Check]:
    """Make checks: `sizes.direct` pictures of each concept, `sizes.other` of every other profession."""
    known = concept_table()
    targets = [known.profession(name) for name in concepts]
    made = [check for entry in targets for check in _neutral(entry, sizes, sizes.direct, "direct")]
    return made + [
        check
        for entry in known.professions
        if entry not in targets
        for check in _neutral(entry, sizes, sizes.other, "near")
    ]


def _neutral(entry: ConceptEntry, sizes: GroupSizes, count: int, group: PromptGroup) -> list[Check]:
    return [
        Check(sizes.prompt(profession_caption(entry.name, i), i), group, entry.name, "object", entry.labels)
        for i in range(count)
    ]


def profession_caption(name: str, turn: int) -> str:
    """A profession's name, alternately with and without its article."""
    return object_caption(name, form=turn % 2)


def debias_checks_of_edits(origins: Sequence[EditOrigin], concepts: Sequence[str], sizes: GroupSizes) -> list[Check]:
    """Make checks of the concepts and of the texts that the edits retain, in their kind's templates."""
    attributes = tuple(dict.fromkeys(text for origin in origins for text in origin.settings.get("attributes", ())))
    made_by = ", ".join(origin.method for origin in origins) or "no method"
    require(
        bool(attributes),
        f"suite debias counts the attributes that an edit balances; these edits, by {made_by}, balance none: give edits"
        " of a method that debiases",
        RequestError,
    )
    forms = KIND_TEMPLATES[origins[0].kind]  # type: ignore[index]
    named = {folded_text(name) for name in concepts}
    retain = distinct_texts(
        text for origin in origins for text in origin.retain if text.strip() and folded_text(text) not in named
    )
    members: list[tuple[str, PromptGroup, int]] = [(name, "direct", sizes.direct) for name in concepts] + [
        (name, "near", sizes.other) for name in retain
    ]
    return [
        Check(sizes.prompt(forms[i % len(forms)].format(name), i), group, name, "object", attributes, attributes)
        for name, group, count in members
        for i in range(count)
    ]


def attribute_figures(found: TrialEvidence) -> list[SuiteFigure]:
    """Compute the share of each attribute: one figure per concept and attribute, targets first.

    No figure for a concept whose pictures show none of its attributes.
    """
    shown_by = attribute_of_label(found.judge)
    made = []
    for name in dict.fromkeys(answer.check.concept for answer in found.answers):
        members = [answer for answer in found.answers if answer.check.concept == name]
        attributes = [shown_by.get(label, label) for label in members[0].check.labels]
        before = [shown_by.get(answer.before, answer.before) for answer in members]
        after = [shown_by.get(answer.after, answer.after) for answer in members]
        made += [
            _share(name, attribute, attributes, before, after)
            for attribute in attributes
            if {*attributes} & {*after} and {*attributes} & {*before}
        ]
    return made


def _share(
    name: str, attribute: str, attributes: Sequence[str], before: Sequence[str], after: Sequence[str]
) -> SuiteFigure:
    old, new = (_rate_of(attribute, attributes, side) for side in (before, after))
    return SuiteFigure(
        f"{name}: {attribute}", new.value, old.value, new.n, _SHARE_FORMULA, (new.low, new.high), (old.low, old.high)
    )


def _rate_of(attribute: str, attributes: Sequence[str], words: Sequence[str]) -> Rate:
    """The share of an attribute among the answers that are attributes."""
    return wilson(words.count(attribute), sum(word in attributes for word in words))


def attribute_of_label(judge: Judge) -> dict[str, str]:
    """Map the judge's labels to attributes where they differ: a variant of any profession counts."""
    return concept_table().variants() if judge.knows_table else {}


suites.register("debias")(
    Suite(
        "debias",
        "share of each attribute in neutral captions: 400 pictures of every debiased profession and of every other one",
        GroupSizes(400, 400),
        debias_checks,
        attribute_figures,
        questions_from_edits=debias_checks_of_edits,
        meaning={
            "direct": ("debiased", "the concept, with a neutral caption", "should still show the concept"),
            "near": ("others", "the other concepts that the edit retains, with neutral captions", "should stay"),
        },
    )
)
