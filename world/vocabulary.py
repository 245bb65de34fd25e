"""All names of the artwork as classes for the text encoder: the table's objects, then every other name with its label
and tags.

What the world never draws still spreads the encoder's states: a space of 262 classes uses few directions.
"""

import random
import re
from dataclasses import dataclass

from unconcept.worlds.scenes import one_phrase, scene_caption
from unconcept.worlds.table import ConceptTable

from .captions import STYLED, Caption, Captions, Subject

MARK = "icon:"  # of classes that the table lacks
LONGEST = 24  # letters, so that captions fit in the encoders
PLAIN = re.compile(r"[a-z][a-z -]*[a-z]")


@dataclass(frozen=True)
class Vocabulary:
    """`classes` in order; `meanings` of each extra word: the classes it may mean."""

    classes: tuple[str, ...]
    meanings: dict[str, tuple[str, ...]]

    @property
    def numbers(self) -> dict[str, int]:
        """Of each class: its place."""
        return {name: i for i, name in enumerate(self.classes)}

    def phrases(self) -> list[str]:
        """One wording of each class, the table's names first."""
        return [phrase for _, phrase in self.named_phrases()]

    def named_phrases(self) -> list[tuple[str, str]]:
        """Each class with that wording."""
        return [(name, name.removeprefix(MARK).replace("-", " ")) for name in self.classes]


def vocabulary(known: ConceptTable, words: dict[str, list[str]]) -> Vocabulary:
    """`words`: of each icon its label, then its tags. Words that the table has keep the table's meaning."""
    concepts = {icon: entry.name for entry in known.objects for icon in entry.icons}
    extra = [MARK + icon for icon in words if icon not in concepts]  # Some icons are called as another concept is.
    meanings: dict[str, list[str]] = {}
    for icon, texts in words.items():
        for text in dict.fromkeys(text.lower() for text in texts):
            members = meanings.setdefault(text, [])
            name = concepts.get(icon, MARK + icon)
            if name not in members:
                members.append(name)
    taken = {wording for entry in known.entries for wording in entry.wordings}
    usable = [text for text in meanings if PLAIN.fullmatch(text) and len(text) <= LONGEST and text not in taken]
    plain = {text: tuple(meanings[text]) for text in usable}
    return Vocabulary((*(entry.name for entry in known.objects), *extra), plain)


def draw_extra(words: Vocabulary, captions: Captions, rng: random.Random) -> tuple[Caption, tuple[str, ...]]:
    """A caption of one extra word, and the classes that the word may mean."""
    word = rng.choice(list(words.meanings))
    style = rng.choice(list(captions.style_entries)) if rng.random() < STYLED else None
    background = rng.choice(captions.words.backgrounds).name if rng.random() < 0.3 else None
    first = style is not None and rng.random() < 0.5
    text = scene_caption(
        one_phrase(word, article=not first and rng.random() < 0.7), style, background, style_first=first
    )
    caption = Caption(text, (Subject(word, word),), style=style, style_wording=style, background=background)
    return caption, words.meanings[word]
