"""What a finished model is asked: captions with seeds on which nothing was trained or chosen, and what must be seen."""

import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from unconcept.worlds.scenes import (
    ABOVE,
    BELOW,
    LEFT,
    RIGHT,
    WHOLE,
    Box,
    SceneWords,
    count_phrase,
    one_phrase,
    pair_phrase,
    scene_caption,
)
from unconcept.worlds.table import ConceptEntry, ConceptTable

REPORT_SEEDS = 1_000_000  # seeds from here on are for published figures alone


@dataclass(frozen=True)
class Question:
    """A line of the score table, a caption, its seed, and what must be seen."""

    line: str
    text: str
    seed: int
    objects: tuple[tuple[Box, tuple[str, ...]], ...] = ()
    """Parts of the picture, and the labels that are right there."""
    style: str | None = None
    background: str | None = None
    count: int | None = None
    order: tuple[tuple[str, ...], tuple[str, ...], str] | None = None
    """Labels of a first and a second object, and the axis along which the first must come first."""


def seed_of(text: str, replicate: int, tuning: bool) -> int:
    """A seed that depends on these alone."""
    number = int.from_bytes(hashlib.sha256(f"{text}/{replicate}".encode()).digest()[:5], "big")
    return number % REPORT_SEEDS if tuning else REPORT_SEEDS + number


def questions(known: ConceptTable, words: SceneWords, limit: int, rung: int, tuning: bool = False) -> list[Question]:
    """All lines that hold on a rung, `limit` captions each, drawn at random but always the same."""
    kinds: list[Callable[[ConceptTable, SceneWords, random.Random], Iterator[Question]]] = [
        _single,
        _unseen_style,
        _pairs,
    ]
    kinds += [_synonyms_given, _synonyms_held_out]
    if rung >= 1:
        kinds += [_backgrounds, _unseen_backgrounds]
    if rung >= 2:
        kinds += [_counts, _places]
    asked: list[Question] = []
    for number, kind in enumerate(kinds):
        rows = kind(known, words, random.Random(number))
        for _ in range(limit):
            question = next(rows)
            seed = seed_of(question.text, len(asked), tuning)
            asked.append(replace(question, seed=seed))
    return asked


def _whole(entry: ConceptEntry) -> tuple[tuple[Box, tuple[str, ...]], ...]:
    return ((WHOLE, entry.labels),)


def _single(known: ConceptTable, words: SceneWords, rng: random.Random) -> Iterator[Question]:
    while True:
        entry = rng.choice(known.objects)
        style = rng.choice([s for s in entry.styles if s not in entry.unseen])
        yield Question("single", scene_caption(one_phrase(entry.name), style), 0, _whole(entry), style, count=1)


def _unseen_style(known: ConceptTable, words: SceneWords, rng: random.Random) -> Iterator[Question]:
    while True:
        entry = rng.choice([e for e in known.objects if e.unseen])
        style = rng.choice(entry.unseen)
        yield Question("unseen style", scene_caption(one_phrase(entry.name), style), 0, _whole(entry), style)


def _backgrounds(known: ConceptTable, words: SceneWords, rng: random.Random) -> Iterator[Question]:
    while True:
        entry = rng.choice(known.objects)
        background = rng.choice([b for b in words.backgrounds if entry.name not in b.unseen]).name
        text = scene_caption(one_phrase(entry.name), None, background)
        yield Question("background", text, 0, _whole(entry), background=background)


def _unseen_backgrounds(known: ConceptTable, words: SceneWords, rng: random.Random) -> Iterator[Question]:
    while True:
        background = rng.choice([b for b in words.backgrounds if b.unseen])
        entry = known[rng.choice(background.unseen)]
        text = scene_caption(one_phrase(entry.name), None, background.name)
        yield Question("unseen background", text, 0, _whole(entry), background=background.name)


def _counts(known: ConceptTable, words: SceneWords, rng: random.Random) -> Iterator[Question]:
    while True:
        entry = rng.choice([e for e in known.objects if e.name not in words.uncounted])
        count = rng.choice((2, 3))
        style = rng.choice([s for s in entry.styles if s not in entry.unseen])
        text = scene_caption(count_phrase(words.plural(entry.name), count), style)
        yield Question("count", text, 0, _whole(entry), style, count=count)


def _two(known: ConceptTable, rng: random.Random) -> tuple[ConceptEntry, ConceptEntry, str]:
    while True:
        one, other = rng.sample(known.objects, 2)
        shared = [s for s in one.styles if s in other.styles and s not in (*one.unseen, *other.unseen)]
        if shared:
            return one, other, rng.choice(shared)


def _pairs(known: ConceptTable, words: SceneWords, rng: random.Random) -> Iterator[Question]:
    while True:
        one, other, style = _two(known, rng)
        parts = ((LEFT, one.labels), (RIGHT, other.labels))
        yield Question("two objects", scene_caption(pair_phrase(one.name, other.name), style), 0, parts, count=2)


def _places(known: ConceptTable, words: SceneWords, rng: random.Random) -> Iterator[Question]:
    sides = {"left of": (LEFT, RIGHT, "x"), "right of": (RIGHT, LEFT, "x")}
    sides |= {"above": (ABOVE, BELOW, "y"), "below": (BELOW, ABOVE, "y")}
    while True:
        one, other, style = _two(known, rng)
        relation = rng.choice(words.relations[1:])
        first, second, axis = sides[relation]
        comes_first = relation in ("left of", "above")
        order = (one.labels, other.labels) if comes_first else (other.labels, one.labels)
        line = "left and right" if axis == "x" else "above and below"
        text = scene_caption(pair_phrase(one.name, other.name, relation), style)
        parts = ((first, one.labels), (second, other.labels))
        yield Question(line, text, 0, parts, order=(*order, axis))


def _synonyms(share: str) -> Callable[[ConceptTable, SceneWords, random.Random], Iterator[Question]]:
    def rows(known: ConceptTable, words: SceneWords, rng: random.Random) -> Iterator[Question]:
        said = [(e, w) for e in known.objects for w in (*getattr(e.synonyms, share), *getattr(e.indirect, share))]
        while True:
            entry, word = rng.choice(said)
            style = rng.choice([s for s in entry.styles if s not in entry.unseen])
            line = f"synonyms {share.replace('_', ' ')}"
            yield Question(line, scene_caption(one_phrase(word), style), 0, _whole(entry))

    return rows


_synonyms_given, _synonyms_held_out = _synonyms("given"), _synonyms("held_out")
