"""Concepts, their kinds, and the prompt templates of each kind."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from .errors import RequestError, require
from .escapes import require_unicode

ConceptKind = Literal["object", "style", "person", "character", "harmful", "explicit"]
CONCEPT_KINDS: tuple[ConceptKind, ...] = get_args(ConceptKind)


@dataclass(frozen=True)
class Concept:
    """A thing that a prompt can name.

    `aliases` are other words for it and `contexts` are templates around it; a request may erase both as well.
    """

    name: str
    kind: ConceptKind = "object"
    aliases: tuple[str, ...] = ()
    contexts: tuple[str, ...] = ()  # each with one {}, which the target and its anchor fill in turn

    def __post_init__(self) -> None:
        for text in (self.name, *self.aliases, *self.contexts):
            require(isinstance(text, str), f"concept {text!r} is no text: give its name", RequestError)
            require_unicode(text, "concept", RequestError)
        require(bool(self.name.strip()), f"concept {self.name!r} is empty: give at least one word", RequestError)
        require(self.kind in CONCEPT_KINDS, f"kind {self.kind!r}: allowed are {', '.join(CONCEPT_KINDS)}", RequestError)

    @property
    def all_names(self) -> tuple[str, ...]:
        """The name, then the aliases."""
        return (self.name, *self.aliases)


NULL_ANCHORS: dict[ConceptKind, str] = {  # The anchor of a concept for which the user names none.
    "object": "",
    "style": "art",
    "person": "person",
    "character": "",
    "harmful": "",
    "explicit": "",
}

KIND_TEMPLATES: dict[ConceptKind, tuple[str, ...]] = {  # Prompts that show a concept; used to draw it, never to edit.
    "object": ("a {}", "a photo of a {}", "a picture of a {}"),
    "style": ("a painting in {} style", "{} style artwork", "a landscape in {} style"),
    "person": ("a photo of {}", "a portrait of {}", "{} smiling"),
    "character": ("a picture of {}", "{} standing", "a drawing of {}"),
    "harmful": ("a {}", "a photo of a {}", "a picture of a {}"),
    "explicit": ("{}", "a photo of {}", "a picture of {}"),
}


def shared_kind(kinds: Iterable[str]) -> ConceptKind:
    """The kind of concepts that are erased together: the first of theirs in the order above, however they are typed."""
    found = set(kinds)
    return next(kind for kind in CONCEPT_KINDS if kind in found)
