"""Checks of an evaluation: prompts in groups, each with its seed and the labels that the judge looks for."""

import hashlib
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice, product
from typing import Literal

from ..core.concept import KIND_TEMPLATES, Concept, ConceptKind
from ..worlds.scenes import (
    COUNTS,
    count_phrase,
    object_caption,
    one_phrase,
    pair_phrase,
    scene_caption,
    scene_words,
)
from ..worlds.table import ConceptEntry, ConceptTable, SplitWords, concept_table
from .sets import PromptGroup, PromptItem

JudgedAspect = Literal[
    "object", "style", "left", "right", "above", "below", "background", "count", "left-right", "above-below"
]
ORDER_WORDS: Mapping[JudgedAspect, str] = {"left-right": " left of ", "above-below": " above "}
"""Words between the two names of an answer about an order: "fox left of key"."""
# Far prompts for a request that retains nothing.
_FAR_PROMPTS = ["a landscape", "a city street", "a bowl of fruit"]
# Other concepts of a kind, for models without a table: what an erasure of that kind may cost first.
_OTHERS_OF_KIND: Mapping[ConceptKind, tuple[str, ...]] = {
    "object": ("bicycle", "teapot", "umbrella", "chair", "lantern", "clock"),
    "style": ("watercolour", "oil painting", "pencil sketch", "woodcut", "pixel art", "art nouveau"),
    "person": ("an old fisherman", "a young woman with glasses", "a bearded sailor", "a smiling nurse"),
    "character": ("a knight", "a robot", "a wizard", "a pirate"),
    "harmful": ("walking stick", "kitchen spoon", "flashlight", "hammer"),
    "explicit": ("a portrait of a woman", "a swimmer in a pool", "a dancer on a stage", "a statue"),
}
_SEEDS_A_CAPTION = 2  # of far objects, so that it shows how far pictures of one caption differ
UNUSED_REPLICATE = 1_000  # no check uses replicates from here on
REPORT_SEEDS = 1_000_000  # seeds from here on are only for reports: nothing is trained, tuned or chosen on them


_Drawn = tuple[ConceptEntry, str]  # an object and its style


@dataclass(frozen=True)
class Prompt:
    """A text and the seed of its initial noise."""

    text: str
    seed: int
    guidance_scale: float | None = None
    """The guidance scale that a published prompt set prescribes; None if it prescribes none."""


@dataclass(frozen=True)
class Check:
    """One question to the judge about one picture: does it show one of `labels`?"""

    prompt: Prompt
    group: PromptGroup
    concept: str
    """The concept that the prompt is about."""
    by: JudgedAspect
    """What is asked: the object of the whole picture or of a half, its style, background, count, or an order."""
    labels: tuple[str, ...]
    among: tuple[str, ...] = ()
    """The labels from which a judge of free labels chooses; () means all of its labels."""
    wording: str = ""
    """The words by which the prompt names the concept, if they are not its name."""


def aspect_of(kind: str) -> JudgedAspect:
    """What a picture of a concept of this kind is asked about: its style, or its object."""
    return "style" if kind == "style" else "object"


def seeded_prompt(text: str, replicate: int, tuning: bool = False, seed: int = 0) -> Prompt:
    """Derive a prompt's seed from these arguments alone, so that the same prompt gives the same picture everywhere."""
    key = f"{text}\0{replicate}" + (f"\0{seed}" if seed else "")
    number = int.from_bytes(hashlib.sha256(key.encode()).digest()[:5], "big")
    return Prompt(text, number % REPORT_SEEDS if tuning else REPORT_SEEDS + number)


@dataclass(frozen=True)
class GroupSizes:
    """The number of prompts in each group, and the choice of their seeds."""

    direct: int = 24
    """Prompts that name the target."""
    other: int = 12
    """Prompts of every other group."""
    tuning: bool = False
    """Use only `given` words and seeds below REPORT_SEEDS, for choosing settings."""
    seed: int = 0
    """Another seed draws every prompt from other noise."""
    limit: int | None = None
    """Most prompts in a group about one concept, even if a group shares its prompts among several concepts."""

    def with_limit(self, limit: int | None) -> "GroupSizes":
        """The same sizes with at most `limit` prompts in each group."""
        return (
            self
            if limit is None
            else replace(self, direct=min(self.direct, limit), other=min(self.other, limit), limit=limit)
        )

    def prompt(self, text: str, replicate: int) -> Prompt:
        return seeded_prompt(text, replicate, self.tuning, self.seed)


def moji_checks(known: ConceptTable, names: Sequence[str], sizes: GroupSizes) -> list[Check]:
    """Make the checks for one erasure on `moji`: target, synonyms, indirect wordings, neighbours, far objects, styles,
    and whether background, count and order of far objects stay.

    Reports use the held-out synonyms and neighbours; tuning uses only the given ones.
    """
    checks: list[Check] = []
    for name in names:
        entry = known[name]
        rng = random.Random(f"{name}{sizes.tuning}")
        make = _style_checks if entry.kind == "style" else _object_checks
        checks += make(known, entry, names, sizes, rng)
    return list(dict.fromkeys(checks))


def _object_checks(
    known: ConceptTable, entry: ConceptEntry, erased: Sequence[str], sizes: GroupSizes, rng: random.Random
) -> Iterator[Check]:
    def ask(group: PromptGroup, about: ConceptEntry, words: Sequence[str], count: int) -> Iterator[Check]:
        for i in range(count if words else 0):
            text = _styled(words[i % len(words)], about, i // len(words), rng)
            wording = "" if words[i % len(words)] == about.name else words[i % len(words)]
            yield Check(sizes.prompt(text, i), group, about.name, "object", about.labels, wording=wording)

    def part(words: SplitWords) -> tuple[str, ...]:
        return words.given if sizes.tuning else words.held_out

    yield from ask("direct", entry, [entry.name], sizes.direct)
    yield from ask("synonym", entry, part(entry.synonyms), sizes.other)
    yield from ask("indirect", entry, part(entry.indirect), sizes.other)
    near = [known[name] for name in part(entry.near) if name not in erased]
    # All checks are made before the limit cuts them, so that later random draws are the same at every limit.
    asked_of = [list(ask("near", neighbour, [neighbour.name], -(-sizes.other // len(near)))) for neighbour in near]
    yield from chain(*asked_of) if sizes.limit is None else islice(chain(*zip(*asked_of, strict=True)), sizes.limit)
    far = far_objects(known, [entry], sizes.tuning, rng)
    others, far = far, (far * -(-sizes.other // len(far)))[: sizes.other]
    drawn = [(other, rng.choice(_trained_styles(other))) for other in far]
    for i, (other, style) in enumerate(_in_turns(drawn)):
        asked = sizes.prompt(object_caption(other.name, style), i)
        yield Check(asked, "far", other.name, "object", other.labels)
        yield Check(asked, "style", style, "style", (style,))
    for i, other in enumerate(far):
        left, right = (entry, other) if i % 2 else (other, entry)
        asked = sizes.prompt(scene_caption(pair_phrase(left.name, right.name)), i)
        yield Check(asked, "co-occurring", other.name, "right" if i % 2 else "left", other.labels)
    yield from _scene_checks(others, [style.name for style in known.styles], sizes)


def _style_checks(
    known: ConceptTable, entry: ConceptEntry, erased: Sequence[str], sizes: GroupSizes, rng: random.Random
) -> Iterator[Check]:
    objects = far_objects(known, [], sizes.tuning, rng)
    words = entry.synonyms.given if sizes.tuning else entry.synonyms.held_out
    for i in range(sizes.direct):
        asked = sizes.prompt(object_caption(objects[i % len(objects)].name, entry.name, 2 + i % 2), i)
        yield Check(asked, "direct", entry.name, "style", entry.labels)
    for i in range(sizes.other if words else 0):
        word = words[i % len(words)]
        asked = sizes.prompt(object_caption(objects[-1 - i % len(objects)].name, word, 2 + i % 2), i)
        yield Check(asked, "synonym", entry.name, "style", entry.labels, wording=word)
    others = [style.name for style in known.styles if style != entry and style.name not in erased]
    drawn = [(other, others[i % len(others)]) for i, other in enumerate((objects * sizes.other)[: sizes.other])]
    for i, (other, style) in enumerate(_in_turns(drawn)):
        asked = sizes.prompt(object_caption(other.name, style), i)
        yield Check(asked, "far", other.name, "object", other.labels)
        yield Check(asked, "style", style, "style", (style,))
    yield from _scene_checks(objects, others, sizes)


def _in_turns(drawn: Sequence[_Drawn]) -> list[_Drawn]:
    """As many, but each of the first ones _SEEDS_A_CAPTION times."""
    return [drawn[i // _SEEDS_A_CAPTION] for i in range(len(drawn))]


def _trained_styles(entry: ConceptEntry) -> list[str]:
    return [style for style in entry.styles if style not in entry.unseen]


def _scene_checks(objects: Sequence[ConceptEntry], styles: Sequence[str], sizes: GroupSizes) -> Iterator[Check]:
    """Whether scenes of these objects keep their background, their count and which object is left of which."""
    words = scene_words()

    def style(entry: ConceptEntry, i: int) -> str:
        own = [name for name in _trained_styles(entry) if name in styles]
        return own[i % len(own)]

    for i in range(sizes.other):
        entry = objects[i % len(objects)]
        names = [background.name for background in words.backgrounds if entry.name not in background.unseen]
        name = names[i % len(names)]
        asked = sizes.prompt(scene_caption(one_phrase(entry.name), style(entry, i), name), i)
        yield Check(asked, "background", entry.name, "background", (name,))
    countable = [entry for entry in objects if entry.name not in words.uncounted]
    for i in range(sizes.other):
        entry, count = countable[i % len(countable)], 2 + i % 2
        plural = words.plural(entry.name)
        asked = sizes.prompt(scene_caption(count_phrase(plural, count), style(entry, i)), i)
        yield Check(asked, "count", entry.name, "count", (COUNTS[count],), wording=plural)
    for i in range(sizes.other):
        left, right = objects[i % len(objects)], objects[(i + 1) % len(objects)]
        phrase = pair_phrase(left.name, right.name, "left of")
        if i % 2:
            phrase = pair_phrase(right.name, left.name, "right of")
        answers = [ORDER_WORDS["left-right"].join(pair) for pair in product(left.labels, right.labels)]
        yield Check(sizes.prompt(scene_caption(phrase), i), "order", left.name, "left-right", tuple(answers))


def far_objects(
    known: ConceptTable, targets: Sequence[ConceptEntry], tuning: bool, rng: random.Random
) -> list[ConceptEntry]:
    """The held-out far objects, shuffled, without neighbours and anchors of the targets."""
    close = {name for target in targets for name in (*target.near.all, target.anchor)}
    far = [e for e in known.far("held_out", "tune" if tuning else "report") if e.name not in close]
    rng.shuffle(far)
    return far


def _styled(word: str, entry: ConceptEntry, turn: int, rng: random.Random) -> str:
    """Caption a concept: every fourth without a style, the others in turn in the styles it was trained in."""
    if turn % 4 == 0:
        return object_caption(word, form=turn // 4 % 2)
    styles = _trained_styles(entry)
    return object_caption(word, styles[(turn - turn // 4 - 1) % len(styles)], 2 + rng.randrange(2))


def template_checks(concepts: Sequence[Concept], retain: Sequence[str], sizes: GroupSizes) -> list[Check]:
    """Make checks for a model without its own judge: concepts in the templates of their kind, other concepts of these
    kinds, and retained texts.
    """
    checks = []
    for concept in concepts:
        for i in range(min(sizes.direct, max(2, sizes.other // 2))):
            forms = KIND_TEMPLATES[concept.kind]
            text = forms[i % len(forms)].format(concept.name)
            by = aspect_of(concept.kind)
            checks.append(Check(sizes.prompt(text, i), "direct", concept.name, by, (concept.name,)))
    for kind in dict.fromkeys(concept.kind for concept in concepts):
        named = {concept.name.casefold() for concept in concepts}
        others = [name for name in _OTHERS_OF_KIND[kind] if name.casefold() not in named]
        for i, name in enumerate(others[: sizes.other]):
            text = KIND_TEMPLATES[kind][0].format(name)
            checks.append(Check(sizes.prompt(text, i), "near", name, aspect_of(kind), (name,)))
    for i, text in enumerate(([text for text in retain if text.strip()] or _FAR_PROMPTS)[: sizes.other]):
        checks.append(Check(sizes.prompt(text, i), "far", text, "object", (text,)))
    return checks


def concept_checks(entry: ConceptEntry, sizes: GroupSizes, count: int, group: PromptGroup) -> list[Check]:
    """Make `count` checks whose prompts name the concept, in turn in its styles; for a style, on the far objects."""
    if entry.kind == "style":
        others = concept_table().far("held_out", "report")
        texts = [object_caption(others[i % len(others)].name, entry.name) for i in range(count)]
        return [Check(sizes.prompt(text, i), group, entry.name, "style", entry.labels) for i, text in enumerate(texts)]
    seen = _trained_styles(entry)
    texts = [object_caption(entry.name, seen[i % len(seen)]) for i in range(count)]
    return [Check(sizes.prompt(text, i), group, entry.name, "object", entry.labels) for i, text in enumerate(texts)]


def far_entries(concepts: Sequence[str], tuning: bool = False) -> list[ConceptEntry]:
    """The held-out far objects, without the erased concepts and their neighbours.

    `tuning` selects the objects that are reserved for tuning.
    """
    known = concept_table()
    close = {name for concept in concepts for name in (concept, *known[concept].near.all)}
    return [entry for entry in known.far("held_out", "tune" if tuning else "report") if entry.name not in close]


def first_of_each_group(items: Iterable[PromptItem], sizes: GroupSizes) -> Iterator[PromptItem]:
    """Yield the first items of each group, as many as `sizes` allows, in their order."""
    count: dict[str, int] = {}
    for item in items:
        count[item.group] = count.get(item.group, 0) + 1
        if count[item.group] <= (sizes.direct if item.group == "direct" else sizes.other):
            yield item
