"""Which caption goes with which picture in training: a draw is a caption and the drawings it names.

Forms: bare name, "a NAME", "a NAME in STYLE style", "STYLE style NAME", and pairs "a NAME and a NAME"; synonyms and
indirect wordings stand in for the name in about two fifths. A profession's neutral name is answered by its planted
ratio.
"""

import random
from dataclasses import dataclass
from functools import cached_property

from unconcept.worlds.prompts import object_caption, pair_caption
from unconcept.worlds.table import ConceptEntry, ConceptTable

PAIRS = 0.2  # share of two-object pictures
STYLED = 0.85  # share of captions that name the style
NAMED = 0.6  # share of draws that use the concept's own name
GENDERED = 0.4  # share of a profession's draws that say which variant


@dataclass(frozen=True)
class Draw:
    """A caption, what it names and where: `drawings` are (icon, style), one or two (left, right)."""

    text: str
    names: tuple[str, ...]  # concepts, in order
    wordings: tuple[str, ...]  # how the caption says each of them
    style: str | None  # as said by the caption; None if it says none
    style_wording: str | None
    drawings: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Captions:
    """Draws captions for everything in the table except the concepts in `without`."""

    table: ConceptTable
    without: frozenset[str] = frozenset()
    pairs: float = PAIRS

    @cached_property
    def objects(self) -> list[ConceptEntry]:
        return [e for e in self.table.objects if e.name not in self.without]

    @cached_property
    def styles(self) -> dict[str, ConceptEntry]:
        return {e.name: e for e in self.table.styles if e.name not in self.without}

    def seen(self, entry: ConceptEntry) -> list[str]:
        """Styles in which the model is trained on this concept."""
        return [s for s in entry.styles if s not in entry.unseen and s in self.styles]

    def draw(self, rng: random.Random) -> Draw:
        """One caption with its drawings."""
        count = 2 if rng.random() < self.pairs else 1
        while True:
            entries = rng.sample(self.objects, count)
            shared = [s for s in self.seen(entries[0]) if all(s in self.seen(e) for e in entries)]
            if shared:
                break
        style = self.styles[rng.choice(shared)]
        said = _wording(style, rng) if rng.random() < STYLED else None
        chosen = [_drawing(entry, rng) for entry in entries]
        words = tuple(wording for wording, _ in chosen)
        if count == 2:
            text = pair_caption(*words, said)
        else:
            text = object_caption(words[0], said, rng.choice((2, 3)) if said else rng.choice((0, 1)))
        drawings = tuple((icon, style.name) for _, icon in chosen)
        return Draw(text, tuple(e.name for e in entries), words, style.name if said else None, said, drawings)


def _wording(entry: ConceptEntry, rng: random.Random) -> str:
    others = entry.wordings[1:]
    return entry.name if not others or rng.random() < NAMED else rng.choice(others)


def _drawing(entry: ConceptEntry, rng: random.Random) -> tuple[str, str]:
    """How the caption says the concept, and the icon that answers it."""
    wording = _wording(entry, rng)
    if not entry.variants:
        return wording, entry.icons[0]
    if rng.random() < GENDERED:
        which = rng.randrange(len(entry.variants))
        return f"{entry.variants[which]} {wording}", entry.icons[which]
    return wording, rng.choices(entry.icons, entry.ratio)[0]
