"""What a training caption says: the concepts, and in a part of the captions their style, background, size, count and
place.

Synonyms and indirect wordings stand in for a name in about two fifths. What a caption leaves open, `scenes.py` draws.
"""

import random
from dataclasses import dataclass, replace
from functools import cached_property

from unconcept.worlds.scenes import Relation, SceneWords, count_phrase, one_phrase, pair_phrase, scene_caption
from unconcept.worlds.table import ConceptEntry, ConceptTable

PAIRS = 0.22  # share of captions that name two objects
COUNTED = 0.16  # share of captions that say "two" or "three"
STYLED = 0.8  # share of captions that name the style
NAMED = 0.6  # share of draws that use the concept's own name
GENDERED = 0.4  # share of a profession's draws that say which variant
SIZED = 0.3  # share of single objects whose size is said
GROUNDED = 0.4  # share of captions that name the background
RELATED = 0.5  # share of pairs that say more than "and"


@dataclass(frozen=True)
class Subject:
    """A concept, how the caption words it, and the variant of a profession if it says one."""

    name: str
    wording: str
    variant: str | None = None


@dataclass(frozen=True)
class Caption:
    """A caption and what it says; None is left open."""

    text: str
    subjects: tuple[Subject, ...]
    count: int = 1
    """Objects of each subject."""
    size: str | None = None
    relation: Relation | None = None
    style: str | None = None
    style_wording: str | None = None
    background: str | None = None


@dataclass(frozen=True)
class Captions:
    """Draws captions that are true on a rung of the ladder, without the concepts in `without`.

    Backgrounds are named from rung 1 on; sizes, and one object above another, from rung 2 on.
    """

    table: ConceptTable
    words: SceneWords
    rung: int
    without: frozenset[str] = frozenset()
    pairs: float = PAIRS
    everything: bool = False
    """Also held-out pairs: judges know what the model never saw."""

    @cached_property
    def whole(self) -> "Captions":
        """The same with nothing left out."""
        return replace(self, without=frozenset()) if self.without else self

    @cached_property
    def objects(self) -> list[ConceptEntry]:
        """Everything that may be drawn."""
        return [e for e in self.table.objects if e.name not in self.without]

    @cached_property
    def countable(self) -> list[ConceptEntry]:
        """What a number may stand before."""
        return [e for e in self.objects if e.name not in self.words.uncounted]

    @cached_property
    def style_entries(self) -> dict[str, ConceptEntry]:
        """Styles by name."""
        return {e.name: e for e in self.table.styles if e.name not in self.without}

    @cached_property
    def _barred(self) -> dict[str, frozenset[str]]:
        barred: dict[str, frozenset[str]] = {}
        for background in () if self.everything else self.words.backgrounds:
            for name in background.unseen:
                barred[name] = barred.get(name, frozenset()) | {background.name}
        return barred

    @cached_property
    def entries(self) -> dict[str, ConceptEntry]:
        """Objects by name."""
        return {e.name: e for e in self.objects}

    def styles(self, names: tuple[str, ...]) -> list[str]:
        """Styles in which training shows all of these objects."""
        shared = set(self.style_entries)
        for name in names:
            entry = self.entries[name]
            shared &= set(entry.styles) if self.everything else set(entry.styles) - set(entry.unseen)
        return [style for style in self.style_entries if style in shared]

    def backgrounds(self, names: tuple[str, ...]) -> list[str]:
        """Backgrounds in front of which training shows all of these objects."""
        barred = frozenset().union(*(self._barred.get(name, ()) for name in names))
        return [b.name for b in self.words.backgrounds if b.name not in barred]

    def draw(self, rng: random.Random) -> Caption:
        """One caption."""
        kind = rng.random()
        if kind < self.pairs:
            return self._pair(rng)
        if kind < self.pairs + COUNTED:
            return self._counted(rng)
        return self._single(rng)

    def _single(self, rng: random.Random) -> Caption:
        subject = self._subject(rng.choice(self.objects), rng)
        size = rng.choice(self.words.sizes) if self.rung >= 2 and rng.random() < SIZED else None
        style, wording, background = self._surroundings((subject.name,), rng)
        first = style is not None and size is None and rng.random() < 0.5
        article = not first and (style is not None or size is not None or rng.random() < 0.5)
        phrase = one_phrase(subject.wording, size, article)
        text = scene_caption(phrase, wording, background, style_first=first)
        return Caption(text, (subject,), 1, size, None, style, wording, background)

    def _pair(self, rng: random.Random) -> Caption:
        while True:
            entries = rng.sample(self.objects, 2)
            if self.styles((entries[0].name, entries[1].name)):
                break
        first, second = (self._subject(entry, rng) for entry in entries)
        choices = self.words.relations[1 : 3 if self.rung < 2 else None]
        relation = rng.choice(choices) if rng.random() < RELATED else "and"
        style, wording, background = self._surroundings((first.name, second.name), rng)
        text = scene_caption(pair_phrase(first.wording, second.wording, relation), wording, background)
        return Caption(text, (first, second), 1, None, relation, style, wording, background)

    def _counted(self, rng: random.Random) -> Caption:
        entry, count = rng.choice(self.countable), rng.choice((2, 3))
        plural = self.words.plural(entry.name)
        style, wording, background = self._surroundings((entry.name,), rng)
        text = scene_caption(count_phrase(plural, count), wording, background)
        return Caption(text, (Subject(entry.name, plural),), count, None, None, style, wording, background)

    def _subject(self, entry: ConceptEntry, rng: random.Random) -> Subject:
        wording = _wording(entry, rng)
        if entry.variants and rng.random() < GENDERED:
            variant = rng.choice(entry.variants)
            return Subject(entry.name, f"{variant} {wording}", variant)
        return Subject(entry.name, wording)

    def _surroundings(self, names: tuple[str, ...], rng: random.Random) -> tuple[str | None, str | None, str | None]:
        """Style, its wording, and background, where the caption names them."""
        style = rng.choice(self.styles(names)) if rng.random() < STYLED else None
        wording = _wording(self.style_entries[style], rng) if style else None
        named = self.rung >= 1 and rng.random() < GROUNDED
        return style, wording, rng.choice(self.backgrounds(names)) if named else None


def _wording(entry: ConceptEntry, rng: random.Random) -> str:
    others = entry.wordings[1:]
    return entry.name if not others or rng.random() < NAMED else rng.choice(others)
