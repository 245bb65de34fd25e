"""Scenes: what a caption leaves open, drawn at random, and the truth about the picture (`composition.py` makes the
picture).

`rung` says how much is left to chance: 0 one picture a caption; 1 backgrounds and mirroring; 2 large in the middle or
small in a corner, pairs and twos at several heights; 3 a few pixels of jitter; 4 small angles, free sizes and places.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from unconcept.worlds.scenes import ABOVE, BELOW, LEFT, RIGHT, WHOLE, Background, Box
from unconcept.worlds.table import ConceptEntry

from .artwork import SIZE
from .captions import Caption, Captions

RUNGS = range(5)
LARGE, SMALL = 0.875, 0.5  # sides of a drawing, in widths of the picture
ROOMY = 0.45  # side of one of several objects on rung 3, so that jitter keeps it in its part of the picture
JITTER = 3 / SIZE
ANGLE = 15.0  # degrees
FREE = {"large": (0.7, 0.95), "small": (0.38, 0.55), "several": (0.36, 0.5)}  # sides on rung 4
LARGE_SHARE = 0.65  # of single objects whose caption does not say the size

QUARTERS = ((0.0, 0.0, 0.5, 0.5), (0.5, 0.0, 1.0, 0.5), (0.0, 0.5, 0.5, 1.0), (0.5, 0.5, 1.0, 1.0))
SIDES = {
    "and": (LEFT, RIGHT),
    "left of": (LEFT, RIGHT),
    "right of": (RIGHT, LEFT),
    "above": (ABOVE, BELOW),
    "below": (BELOW, ABOVE),
}


@dataclass(frozen=True)
class Placement:
    """A drawing's centre and side in widths of the picture, its angle in degrees, and whether it is mirrored."""

    x: float
    y: float
    side: float
    angle: float = 0.0
    mirrored: bool = False

    @property
    def box(self) -> Box:
        """The frame of the drawing, before it is turned."""
        half = self.side / 2
        return self.x - half, self.y - half, self.x + half, self.y + half


@dataclass(frozen=True)
class Sprite:
    """One drawn object: concept, the judge's label, drawing and placement."""

    name: str
    label: str
    icon: str
    placement: Placement


@dataclass(frozen=True)
class Scene:
    """A caption and everything that is true of the picture."""

    caption: Caption
    style: str
    background: Background
    sprites: tuple[Sprite, ...]


def draw_scene(captions: Captions, caption: Caption, rng: random.Random) -> Scene:
    """Draws what `caption` leaves open, on the rung of `captions`."""
    names = tuple(subject.name for subject in caption.subjects)
    style = caption.style or rng.choice(captions.styles(names))
    background = _background(captions, caption, names, rng)
    subjects = [subject for subject in caption.subjects for _ in range(caption.count)]
    sprites = []
    for subject, placement in zip(subjects, _placements(caption, captions.rung, rng), strict=True):
        entry = captions.entries[subject.name]
        which = _variant(entry, subject.variant, rng)
        sprites.append(Sprite(entry.name, entry.labels[which], entry.icons[which], placement))
    return Scene(caption, style, background, tuple(sprites))


def scene_at(captions: Captions, seed: int, position: int) -> Scene:
    """The scene at a position of an endless list: each has a seed of its own.

    A scene that shows what `captions` leaves out is replaced at its position; all others are as if nothing were left
    out, so two trainings of one seed differ in no other scene.
    """
    rng = random.Random(f"{seed}/{position}")
    scene = draw_scene(captions.whole, captions.whole.draw(rng), rng)
    if captions.without.isdisjoint(shown_concepts(scene)):
        return scene
    rng = random.Random(f"{seed}/{position}/instead")
    return draw_scene(captions, captions.draw(rng), rng)


def shown_concepts(scene: Scene) -> frozenset[str]:
    """Names of the objects and of the style that a scene shows."""
    return frozenset((scene.style, *(sprite.name for sprite in scene.sprites)))


def _background(captions: Captions, caption: Caption, names: tuple[str, ...], rng: random.Random) -> Background:
    words = captions.words
    if captions.rung < 1:
        return words["white"]
    if caption.background:
        return words[caption.background]
    choices = [words[name] for name in captions.backgrounds(names)]
    return rng.choices(choices, [background.share for background in choices])[0]


def _variant(entry: ConceptEntry, said: str | None, rng: random.Random) -> int:
    if not entry.variants:
        return 0
    if said:
        return entry.variants.index(said)
    return rng.choices(range(len(entry.variants)), entry.ratio)[0]


def _placements(caption: Caption, rung: int, rng: random.Random) -> list[Placement]:
    if len(caption.subjects) == 2:
        parts: Sequence[Box] = SIDES[caption.relation or "and"]
    elif caption.count == 2:
        parts = (ABOVE, BELOW) if rung >= 2 and rng.random() < 0.5 else (LEFT, RIGHT)
    elif caption.count == 3:
        missing = rng.randrange(4) if rung >= 2 else 0
        parts = [part for i, part in enumerate(QUARTERS) if i != missing]
    else:
        return [_loosen(_single(caption.size, rung, rng), WHOLE, rung, rng)]
    return [_loosen(_several(part, rung, rng), part, rung, rng) for part in parts]


def _single(size: str | None, rung: int, rng: random.Random) -> Placement:
    if rung < 2:
        return Placement(0.5, 0.5, LARGE)
    size = size or ("large" if rng.random() < LARGE_SHARE else "small")
    if rung == 4:
        side = rng.uniform(*FREE[size])
        return Placement(_anywhere(side, 0, 1, rng), _anywhere(side, 0, 1, rng), side)
    if size == "large":
        return Placement(0.5, 0.5, LARGE)
    return Placement(rng.choice((0.25, 0.75)), rng.choice((0.25, 0.75)), SMALL)


def _several(part: Box, rung: int, rng: random.Random) -> Placement:
    """One of several objects, in its part of the picture."""
    left, top, right, bottom = part
    if rung == 4:
        side = rng.uniform(*FREE["several"])
        return Placement(_anywhere(side, left, right, rng), _anywhere(side, top, bottom, rng), side)
    side = SMALL if rung < 3 else ROOMY
    x, y = (left + right) / 2, (top + bottom) / 2
    if rung >= 2 and bottom - top == 1:
        y = rng.choice((0.25, 0.5, 0.75))
    if rung >= 2 and right - left == 1:
        x = rng.choice((0.25, 0.5, 0.75))
    return Placement(x, y, side)


def _anywhere(side: float, low: float, high: float, rng: random.Random) -> float:
    return rng.uniform(low + side / 2, high - side / 2)


def _loosen(placement: Placement, part: Box, rung: int, rng: random.Random) -> Placement:
    """Mirrors, moves and turns a drawing as far as the rung allows, within its part of the picture."""
    if rung >= 1:
        placement = replace(placement, mirrored=rng.random() < 0.5)
    if rung == 3:
        half = placement.side / 2
        x = min(max(placement.x + rng.uniform(-JITTER, JITTER), part[0] + half), part[2] - half)
        y = min(max(placement.y + rng.uniform(-JITTER, JITTER), part[1] + half), part[3] - half)
        placement = replace(placement, x=x, y=y)
    if rung == 4:
        placement = replace(placement, angle=rng.uniform(-ANGLE, ANGLE))
    return placement
