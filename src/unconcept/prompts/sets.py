"""Prompt sets: the prompts and questions of a suite as plain data, identified by a hash of their content."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Literal, get_args

from ..core.errors import DataError, require
from ..core.hashing import hash_json

PromptGroup = Literal[
    "direct",
    "synonym",
    "paraphrase",
    "indirect",
    "co-occurring",
    "near",
    "far",
    "style",
    "background",
    "count",
    "order",
    "other-language",
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
    "background": "background",
    "count": "count",
    "order": "left/right",
    "other-language": "other languages",
}
"""Names of the groups in tables, pages and cards."""
SCENE_GROUPS: tuple[PromptGroup, ...] = ("background", "count", "order")
"""Groups that ask about a scene and not about a concept."""
FILE_GROUPS = tuple(group for group in PROMPT_GROUPS if group not in SCENE_GROUPS)
"""Groups that prompts of a file may have."""
# Groups whose prompts may be about nothing in particular, such as captions.
_NEUTRAL_GROUPS: tuple[PromptGroup, ...] = ("far",)
_PROMPT_SEED_BOUND = 2**63  # seeds are below it, so that every table and generator can hold them


@dataclass(frozen=True, slots=True)
class PromptItem:
    """One question: draw this text, and ask the judge whether the picture shows the concept.

    `replicate` distinguishes equal items of one set. If an item has a fixed seed, its replicates are the same picture.
    """

    text: str
    concept: str
    """The concept that the judge looks for; "" for prompts about nothing in particular."""
    group: PromptGroup = "direct"
    seed: int | None = None
    """Seed of the initial noise; None: derived from the text and the replicate."""
    guidance_scale: float | None = None
    """Guidance scale of sampling; None: the sampler's default."""
    replicate: int = 0
    tag: str = field(default="", compare=False)
    """A category or language by which tables can be split; not part of the question."""

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise DataError(f"prompt {self.text!r} is empty: give at least one word")
        try:
            (self.text + self.concept).encode()
        except UnicodeEncodeError:
            raise DataError(
                f"prompt {self.text!r} contains half of a surrogate pair: write the whole character"
            ) from None
        if self.group not in FILE_GROUPS:
            raise DataError(f"group {self.group!r}: allowed are {', '.join(FILE_GROUPS)}")
        if not self.concept and self.group not in _NEUTRAL_GROUPS:
            raise DataError(
                f"a {self.group} prompt needs a concept: give it in a column `concept`, or for the whole file"
            )
        if self.seed is not None and not 0 <= self.seed < _PROMPT_SEED_BOUND:
            raise DataError(f"seed {self.seed}: allowed are whole numbers from 0 to 2**63 - 1")
        if self.guidance_scale is not None and not (isfinite(self.guidance_scale) and self.guidance_scale >= 0):
            raise DataError(f"guidance scale {self.guidance_scale}: allowed are finite numbers from 0")
        if self.replicate < 0:
            raise DataError(f"replicate {self.replicate}: allowed are whole numbers from 0")

    @property
    def id(self) -> str:
        """16 hex digits of the SHA-256 of the question. File and row number do not matter."""
        guidance = None if self.guidance_scale is None else float(self.guidance_scale)
        return hash_json([self.text, self.concept, self.group, self.seed, guidance, self.replicate])[:16]


@dataclass(frozen=True)
class PromptSet:
    """A named set of distinct items. `of` numbers equal items; the constructor rejects them."""

    name: str
    version: int
    items: tuple[PromptItem, ...]
    empty_rows: int = field(default=0, compare=False)
    """Rows of its file that have no prompt."""

    def __post_init__(self) -> None:
        require(bool(self.items), f"prompt set {self.name!r} contains no prompts: give at least one", DataError)
        if len(set(self.items)) < len(self.items):
            (item, times), *_ = Counter(self.items).most_common(1)
            raise DataError(
                f"prompt set {self.name!r} asks {item.text!r} about {item.concept!r} {times} times: number them with"
                " PromptSet.of"
            )

    @classmethod
    def of(cls, name: str, version: int, items: Iterable[PromptItem]) -> "PromptSet":
        """Make a set in which equal items become replicates 0, 1, ..., so that none is lost."""
        return cls(name, version, tuple(_numbered(items)))

    @property
    def hash(self) -> str:
        """SHA-256 of the sorted ids. It ignores the order, but changes with every changed, missing or added item."""
        return hashlib.sha256("\n".join(sorted(item.id for item in self.items)).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[PromptItem]:
        return iter(self.items)

    def counts(self) -> Mapping[PromptGroup, int]:
        """The number of items in each group that has any, in the order of `PROMPT_GROUPS`."""
        found = Counter(item.group for item in self.items)
        return {group: found[group] for group in PROMPT_GROUPS if found[group]}


def _numbered(items: Iterable[PromptItem]) -> Iterator[PromptItem]:
    seen: set[PromptItem] = set()
    following: dict[PromptItem, int] = {}  # the next replicate to try for items that came more than once
    for item in items:
        if item in seen:
            number = following.get(item, item.replicate + 1)
            while (copy := replace(item, replicate=number)) in seen:
                number += 1
            following[item] = number + 1
            item = copy
        seen.add(item)
        yield item
