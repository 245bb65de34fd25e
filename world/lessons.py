"""What a text encoder is taught: captions, and what each of their tokens must tell."""

import random
import re
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from unconcept.worlds.scenes import SceneWords
from unconcept.worlds.table import ConceptTable

from .captions import Caption, Captions
from .tokenizer import LENGTH
from .vocabulary import Vocabulary, draw_extra

EXTRA = 0.3  # share of captions that name a word of the wider vocabulary
NOT_ASKED = -100


@dataclass(frozen=True)
class Labels:
    """What each token must tell: `concepts` (b, l, c) rows sum to 1 or 0, `facts` (b, l) each, NOT_ASKED or a class."""

    ids: Tensor
    concepts: Tensor
    facts: dict[str, Tensor]

    def to(self, device: str) -> "Labels":
        """The same on a device."""
        facts = {fact: wanted.to(device) for fact, wanted in self.facts.items()}
        return Labels(self.ids.to(device), self.concepts.to(device), facts)


@dataclass(frozen=True)
class Facts:
    """What a caption may say beside its concepts, with the classes of each; class 0 is "not said (yet)"."""

    values: dict[str, tuple[str, ...]]

    @classmethod
    def of(cls, known: ConceptTable, words: SceneWords) -> "Facts":
        """Those of the world."""
        return cls(
            {
                "slot": ("first", "second", "only"),
                "style": ("", *(entry.name for entry in known.styles)),
                "background": ("", *(background.name for background in words.backgrounds)),
                "size": ("", *words.sizes),
                "relation": ("", *words.relations),
                "count": ("", "2", "3"),
            }
        )

    def class_of(self, fact: str, value: str | int | None) -> int:
        """The class of a value; None and 1 (of counts) are not said."""
        return self.values[fact].index("" if value in (None, 1) else str(value))


@dataclass(frozen=True)
class Lesson:
    """A caption and, for each of its subjects, the classes it may mean."""

    caption: Caption
    meanings: tuple[tuple[str, ...], ...]


def draw_lesson(captions: Captions, words: Vocabulary, rng: random.Random) -> Lesson:
    """A caption of the world, or of a word of the wider vocabulary."""
    if rng.random() < EXTRA:
        caption, meaning = draw_extra(words, captions, rng)
        return Lesson(caption, (meaning,))
    caption = captions.draw(rng)
    return Lesson(caption, tuple((subject.name,) for subject in caption.subjects))


def label_tokens(
    lessons: list[Lesson], tokenizer: PreTrainedTokenizerBase, classes: dict[str, int], facts: Facts
) -> Labels:
    """Token ids and per-token labels of a batch of captions."""
    texts = [lesson.caption.text for lesson in lessons]
    coded = tokenizer(texts, padding="max_length", max_length=LENGTH, return_offsets_mapping=True)
    wanted = torch.zeros(len(lessons), LENGTH, len(classes))
    asked = {fact: torch.full((len(lessons), LENGTH), NOT_ASKED) for fact in facts.values}
    for row, lesson in enumerate(lessons):
        ends = [end for _, end in coded["offset_mapping"][row]]
        last = _label_subjects(lesson, ends, wanted[row], asked["slot"][row], classes)
        for fact in ("size", "relation", "count"):
            asked[fact][row, last:] = facts.class_of(fact, getattr(lesson.caption, fact))
        _label_surroundings(lesson.caption, ends, last, {fact: asked[fact][row] for fact in asked}, facts)
    return Labels(torch.tensor(coded["input_ids"]), wanted, asked)


def _label_subjects(lesson: Lesson, ends: list[int], wanted: Tensor, slot: Tensor, classes: dict[str, int]) -> int:
    """Fill in the concepts of one caption; the token at which the last of them ends."""
    caption = lesson.caption
    position = last = 0
    for number, (subject, meanings) in enumerate(zip(caption.subjects, lesson.meanings, strict=True)):
        found = re.compile(rf"\b{re.escape(subject.wording)}\b").search(caption.text, position)
        assert found, (subject, caption.text)
        position = found.end()
        last = ends.index(position)
        wanted[last, [classes[name] for name in meanings]] = 1 / len(meanings)
        slot[last] = number if len(caption.subjects) > 1 else 2
    for meanings in lesson.meanings:
        for name in meanings:
            wanted[last + 1 :, classes[name]] = 1 / (len(meanings) * len(lesson.meanings))
    return last


def _label_surroundings(caption: Caption, ends: list[int], last: int, asked: dict[str, Tensor], facts: Facts) -> None:
    """Style and background: not said until they are said."""
    asked["style"][last:] = asked["background"][last:] = 0
    if caption.style_wording:
        said = caption.text.rindex(caption.style_wording + " style") + len(caption.style_wording)
        asked["style"][ends.index(said) :] = facts.class_of("style", caption.style)
    if caption.background:
        said = caption.text.rindex(" background")
        asked["background"][ends.index(said) :] = facts.class_of("background", caption.background)
