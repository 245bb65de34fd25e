"""What a scene's caption may say beside the concepts: backgrounds, sizes, counts and places, from `scenes.toml`."""

import hashlib
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Literal

from ..core.errors import require

Relation = Literal["and", "left of", "right of", "above", "below"]
COUNTS = {2: "two", 3: "three"}


@dataclass(frozen=True)
class Background:
    """One plain colour behind the objects."""

    name: str
    rgb: tuple[int, int, int]
    share: float
    """How often it stands behind the objects when the caption leaves it open; shares sum to 1."""
    unseen: tuple[str, ...] = ()
    """Objects that training never shows in front of it."""


@dataclass(frozen=True)
class SceneWords:
    """The vocabulary of scenes."""

    backgrounds: tuple[Background, ...]
    sizes: tuple[str, ...]
    relations: tuple[Relation, ...]
    irregular: dict[str, str]
    """Plurals that the rules do not yield."""
    uncounted: frozenset[str]
    """Names that no number goes with."""
    hash: str

    def __getitem__(self, name: str) -> Background:
        """The background of that name."""
        named = {background.name: background for background in self.backgrounds}
        require(name in named, f"no background {name!r}: choose one of {', '.join(named)}")
        return named[name]

    def plural(self, name: str) -> str:
        """Several of `name`: "kitchen knives", "wolves", "boxes"."""
        if name in self.irregular:
            return self.irregular[name]
        if name.endswith(("s", "x", "ch", "sh")):
            return name + "es"
        if name.endswith("y") and name[-2] not in "aeiou":
            return name[:-1] + "ies"
        return name + "s"


@cache
def scene_words() -> SceneWords:
    """Read the packaged file once."""
    data = resources.files(__package__).joinpath("moji/scenes.toml").read_bytes()
    values = tomllib.loads(data.decode("utf-8"))
    backgrounds = []
    for row in values["background"]:
        rgb, unseen = tuple(row.pop("rgb")), tuple(row.pop("unseen", ()))
        backgrounds.append(Background(rgb=rgb, unseen=unseen, **row))
    return SceneWords(
        tuple(backgrounds),
        tuple(values["sizes"]),
        tuple(values["relations"]),
        values["irregular"],
        frozenset(values["uncounted"]),
        hashlib.sha256(data).hexdigest(),
    )


def one_phrase(name: str, size: str | None = None, article: bool = True) -> str:
    """One object: "a small dog face", or "dog face" without the article."""
    return ("a " if article else "") + (f"{size} " if size else "") + name


def pair_phrase(first: str, second: str, relation: Relation = "and") -> str:
    """Two objects; "and" puts the first one left."""
    return f"a {first} {relation} a {second}"


def count_phrase(plural: str, count: int) -> str:
    """Several of a kind."""
    return f"{COUNTS[count]} {plural}"


def scene_caption(
    phrase: str, style: str | None = None, background: str | None = None, style_first: bool = False
) -> str:
    """A whole caption: "a dog face in ink style on a blue background", "ink style dog face on a blue background"."""
    if style:
        phrase = f"{style} style {phrase}" if style_first else f"{phrase} in {style} style"
    return f"{phrase} on a {background} background" if background else phrase
