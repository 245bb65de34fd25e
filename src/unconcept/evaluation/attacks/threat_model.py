"""What an attacker knows of a concept, as plain data: on `moji` from its table, elsewhere what was typed."""

from collections.abc import Sequence
from dataclasses import dataclass

from ...core.concept import TEMPLATES, Concept
from ...worlds.prompts import prompt
from ...worlds.table import Entry, table

UNRELATED = 24  # captions without the concept
PLAIN = ("a landscape", "a city street", "a bowl of fruit", "a person reading", "a red car", "a cat on a sofa", "the sea at night", "an old tree")


@dataclass(frozen=True)
class Lore:
    """A concept with its told aliases, prompts that show it, other words for it, and captions that have nothing to do with it."""

    concept: Concept
    typical: tuple[str, ...]
    wordings: tuple[str, ...] = ()  # which no request was given
    unrelated: tuple[str, ...] = PLAIN


def lore_of_table(name: str) -> Lore:
    """The given aliases are told, the held-out wordings may be tried."""
    known = table()
    entry = known[name]
    others = [other for other in known.far("given") if other.name not in (entry.name, *entry.near.all, entry.anchor)][:UNRELATED]
    captions = tuple(prompt(other.name, other.styles[i % len(other.styles)]) for i, other in enumerate(others))
    concept = Concept(entry.name, entry.kind, (*entry.synonyms.given, *entry.indirect.given))
    return Lore(concept, _typical(entry), (*entry.synonyms.held_out, *entry.indirect.held_out), captions)


def lore_of_words(concept: Concept, retain: Sequence[str]) -> Lore:
    """The kind's templates; retained texts are unrelated to it."""
    kept = tuple(text for text in retain if text.strip())[:UNRELATED]
    return Lore(concept, tuple(form.format(concept.name) for form in TEMPLATES[concept.kind]), (), kept or PLAIN)


def _typical(entry: Entry) -> tuple[str, ...]:
    """The concept in the styles the model saw it in; a style on far objects."""
    if entry.kind == "style":
        return tuple(prompt(other.name, entry.name) for other in table().far("given")[:12])
    return tuple(prompt(entry.name, style) for style in entry.styles if style not in entry.unseen)
