"""Prompt sets: what a suite asks, as plain data that names itself by its content."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Literal, get_args

from ..core.errors import DataError, require
from ..core.hashing import hash_json

PromptGroup = Literal[
    "direct", "synonym", "paraphrase", "indirect", "co-occurring", "near", "far", "style", "other-language"
]
PROMPT_GROUPS: tuple[PromptGroup, ...] = get_args(PromptGroup)
GROUP_NAMES: Mapping[PromptGroup, str] = {
    "direct": "target",
    "synonym": "synonyms",
    "paraphrase": "paraphrases",
    "indirect": "indirect",
    "co-occurring": "co-occurring",
    "near": "near",
    "far": "far",
    "style": "styles",
    "other-language": "other languages",
}
"""What users read in tables, pages and cards."""
# Groups whose prompts may be about nothing in particular, such as captions.
_NEUTRAL_GROUPS: tuple[PromptGroup, ...] = ("far",)
_PROMPT_SEED_BOUND = 2**63  # seeds are below it, so that every table and generator can hold them


@dataclass(frozen=True, slots=True)
class PromptItem:
    """One question: draw this text, and ask whether the picture shows the concept.

    Equal questions in one set are told apart by `replicate`; with a seed of its own each is the same picture, asked
    twice.
    """

    text: str
    concept: str
    """What the judge is asked for; "" for prompts about nothing in particular."""
    group: PromptGroup = "direct"
    seed: int | None = None
    """None: the harness derives it from the text and the replicate."""
    guidance_scale: float | None = None
    """None: the sampler's own."""
    replicate: int = 0
    tag: str = field(default="", compare=False)
    """What tables may be broken down by: category, language; no part of the question."""

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise DataError(f"empty prompt {self.text!r}: give at least one word")
        try:
            (self.text + self.concept).encode()
        except UnicodeEncodeError:
            raise DataError(f"prompt {self.text!r}: half a surrogate pair is no character; write it as one") from None
        if self.group not in PROMPT_GROUPS:
            raise DataError(f"group {self.group!r}: allowed are {', '.join(PROMPT_GROUPS)}")
        if not self.concept and self.group not in _NEUTRAL_GROUPS:
            raise DataError(
                f"a {self.group} prompt needs its concept: name it in a column `concept`, or for the whole file"
            )
        if self.seed is not None and not 0 <= self.seed < _PROMPT_SEED_BOUND:
            raise DataError(f"seed {self.seed}: allowed are whole numbers from 0 to 2**63 - 1")
        if self.guidance_scale is not None and not (isfinite(self.guidance_scale) and self.guidance_scale >= 0):
            raise DataError(f"guidance scale {self.guidance_scale}: allowed are finite numbers from 0")
        if self.replicate < 0:
            raise DataError(f"replicate {self.replicate}: allowed are whole numbers from 0")

    @property
    def id(self) -> str:
        """16 hex digits of SHA-256 over what is asked; neither file nor row number has a part in it."""
        guidance = None if self.guidance_scale is None else float(self.guidance_scale)
        return hash_json([self.text, self.concept, self.group, self.seed, guidance, self.replicate])[:16]


@dataclass(frozen=True)
class PromptSet:
    """Questions under a name. Equal ones are refused here and numbered by `of`."""

    name: str
    version: int
    items: tuple[PromptItem, ...]

    def __post_init__(self) -> None:
        require(bool(self.items), f"prompt set {self.name!r} holds no prompts: give at least one", DataError)
        if len(set(self.items)) < len(self.items):
            (item, times), *_ = Counter(self.items).most_common(1)
            raise DataError(
                f"prompt set {self.name!r} asks {item.text!r} about {item.concept!r} {times} times: number them with"
                " PromptSet.of"
            )

    @classmethod
    def of(cls, name: str, version: int, items: Iterable[PromptItem]) -> "PromptSet":
        """A set in which the second of equal questions became replicate 1, and so on: none is lost, so counts stay the
        file's.
        """
        return cls(name, version, tuple(_numbered(items)))

    @property
    def hash(self) -> str:
        """SHA-256 over the sorted ids: the order of a file does not matter, a changed, missing or further question
        does.
        """
        return hashlib.sha256("\n".join(sorted(item.id for item in self.items)).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[PromptItem]:
        return iter(self.items)

    def counts(self) -> Mapping[PromptGroup, int]:
        """How many questions each group has, in the glossary's order, groups without any left out."""
        found = Counter(item.group for item in self.items)
        return {group: found[group] for group in PROMPT_GROUPS if found[group]}


def _numbered(items: Iterable[PromptItem]) -> Iterator[PromptItem]:
    seen: set[PromptItem] = set()
    following: dict[PromptItem, int] = {}  # the next number to try, of questions that came more than once
    for item in items:
        if item in seen:
            number = following.get(item, item.replicate + 1)
            while (copy := replace(item, replicate=number)) in seen:
                number += 1
            following[item] = number + 1
            item = copy
        seen.add(item)
        yield item
