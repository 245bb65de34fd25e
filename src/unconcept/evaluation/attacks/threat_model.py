"""What an attacker knows about a concept, as plain data: from the table on `moji`, from typed words on other models."""

from collections.abc import Sequence
from dataclasses import dataclass

from ...core.concept import KIND_TEMPLATES, Concept
from ...worlds.scenes import object_caption
from ...worlds.table import ConceptEntry, concept_table

_MOST_UNRELATED = 24  # most captions without the concept
_UNRELATED_CAPTIONS = (
    "a landscape",
    "a city street",
    "a bowl of fruit",
    "a person reading",
    "a red car",
    "a cat on a sofa",
    "the sea at night",
    "an old tree",
)


@dataclass(frozen=True)
class AttackerKnowledge:
    """A concept with its given aliases, prompts that show it, other wordings, and unrelated captions."""

    concept: Concept
    typical: tuple[str, ...]
    wordings: tuple[str, ...] = ()
    """Wordings that no request contained."""
    unrelated: tuple[str, ...] = _UNRELATED_CAPTIONS


def knowledge_from_table(name: str) -> AttackerKnowledge:
    """An attacker's knowledge from the table: given aliases are known, held-out wordings may be tried."""
    known = concept_table()
    entry = known[name]
    others = [other for other in known.far("given") if other.name not in (entry.name, *entry.near.all, entry.anchor)][
        :_MOST_UNRELATED
    ]
    captions = tuple(object_caption(other.name, other.styles[i % len(other.styles)]) for i, other in enumerate(others))
    concept = Concept(entry.name, entry.kind, (*entry.synonyms.given, *entry.indirect.given))
    return AttackerKnowledge(concept, _typical(entry), (*entry.synonyms.held_out, *entry.indirect.held_out), captions)


def knowledge_from_concept(concept: Concept, retain: Sequence[str]) -> AttackerKnowledge:
    """An attacker's knowledge without a table: the kind's templates, and retained texts as unrelated captions."""
    kept = tuple(text for text in retain if text.strip())[:_MOST_UNRELATED]
    return AttackerKnowledge(
        concept,
        tuple(form.format(concept.name) for form in KIND_TEMPLATES[concept.kind]),
        (),
        kept or _UNRELATED_CAPTIONS,
    )


def _typical(entry: ConceptEntry) -> tuple[str, ...]:
    """Captions of the concept in the styles in which the model was trained on it; for a style, on far objects."""
    if entry.kind == "style":
        return tuple(object_caption(other.name, entry.name) for other in concept_table().far("given")[:12])
    return tuple(object_caption(entry.name, style) for style in entry.styles if style not in entry.unseen)
