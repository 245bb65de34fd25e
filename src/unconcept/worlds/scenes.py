"""The vocabulary of scene captions: backgrounds, sizes, counts and relations, from `scenes.toml`."""

import hashlib
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Literal

from ..core.errors import require

Relation = Literal["and", "left of", "right of", "above", "below"]
Box = tuple[float, float, float, float]  # left, top, right, bottom of a part of the picture, in [0, 1]
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)
LEFT, RIGHT, ABOVE, BELOW = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0), (0.0, 0.0, 1.0, 0.5), (0.0, 0.5, 1.0, 1.0)
COUNTS = {2: "two", 3: "three"}


@dataclass(frozen=True)
class Background:
    """One plain colour behind the objects."""

    name: str
    rgb: tuple[int, int, int]
    share: float
    """Its share among pictures whose caption names no background; shares sum to 1."""
    unseen: tuple[str, ...] = ()
    """Objects that are never in front of it in training."""


@dataclass(frozen=True)
class SceneWords:
    """The vocabulary of scenes."""

    backgrounds: tuple[Background, ...]
    sizes: tuple[str, ...]
    relations: tuple[Relation, ...]
    irregular: dict[str, str]
    """Plurals that do not follow the rules, by singular."""
    uncounted: frozenset[str]
    """Names that cannot be counted."""
    hash: str

    def __getitem__(self, name: str) -> Background:
        """The background of this name; an unknown name is an error."""
        named = {background.name: background for background in self.backgrounds}
        require(name in named, f"no background {name!r}: choose one of {', '.join(named)}")
        return named[name]

    def plural(self, name: str) -> str:
        """The plural of `name`: "kitchen knives", "wolves", "boxes"."""
        if name in self.irregular:
            return self.irregular[name]
        if name.endswith(("s", "x", "ch", "sh")):
            return name + "es"
        if name.endswith("y") and name[-2] not in "aeiou":
            return name[:-1] + "ies"
        return name + "s"


@cache
def scene_words() -> SceneWords:
    """Read the packaged file, once for each process."""
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
    """Name one object: "a small dog face", or "dog face" without the article."""
    return ("a " if article else "") + (f"{size} " if size else "") + name


def pair_phrase(first: str, second: str, relation: Relation = "and") -> str:
    """Name two objects and their relation; with "and" the first is on the left."""
    return f"a {first} {relation} a {second}"


def count_phrase(plural: str, count: int) -> str:
    """Name several objects of a kind: "three wolves"."""
    return f"{COUNTS[count]} {plural}"


def object_caption(name: str, style: str | None = None, form: int | None = None) -> str:
    """Caption one object: forms 0 and 1 have no style, 2 and 3 have one; by default the form with an article."""
    if form is None:
        form = 1 if style is None else 2
    return scene_caption(one_phrase(name, article=form in (1, 2)), style, style_first=form == 3)


def scene_caption(
    phrase: str, style: str | None = None, background: str | None = None, style_first: bool = False
) -> str:
    """Make a caption: "a dog face in ink style on a blue background", "ink style dog face on a blue background"."""
    if style:
        phrase = f"{style} style {phrase}" if style_first else f"{phrase} in {style} style"
    return f"{phrase} on a {background} background" if background else phrase
