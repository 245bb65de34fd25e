"""What is true of scenes, as tensors for the judges, and how the judges' answers become words."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from unconcept.worlds.scenes import SceneWords
from unconcept.worlds.table import ConceptTable

from .judge_net import CELLS, Answers
from .scenes import WHOLE, Box, Scene

NOT_ASKED = -100
CORE, RIM = 0.7, 1.05  # a cell inside CORE of a drawing's frame shows it, outside RIM it does not, between is not asked
NOTHING = "nothing"
OCCUPIED = 0.5  # probability above which a cell shows something


@dataclass(frozen=True)
class Truth:
    """Of each scene: `cells` (n, 8, 8) of object labels, style, background and count (n,)."""

    cells: Tensor
    style: Tensor
    background: Tensor
    count: Tensor

    def rows(self, pick: Tensor) -> "Truth":
        """Some of the scenes."""
        return Truth(*(getattr(self, field.name)[pick] for field in fields(self)))

    def to(self, device: str | torch.device) -> "Truth":
        """The same on a device."""
        return Truth(*(getattr(self, field.name).to(device) for field in fields(self)))


@dataclass(frozen=True)
class Words:
    """The judges' words in the order of their heads, without "nothing"."""

    objects: tuple[str, ...]
    styles: tuple[str, ...]
    backgrounds: tuple[str, ...]

    @classmethod
    def of(cls, known: ConceptTable, scenes: SceneWords) -> "Words":
        """Those of the world."""
        styles = tuple(entry.name for entry in known.styles)
        return cls(known.labels, styles, tuple(background.name for background in scenes.backgrounds))


def truth_of(scenes: Sequence[Scene], words: Words) -> Truth:
    """Labels of scenes; later drawings lie on top."""
    labels = {label: i for i, label in enumerate(words.objects)}
    centres = (torch.arange(CELLS) + 0.5) / CELLS
    cells = torch.full((len(scenes), CELLS, CELLS), len(words.objects))
    for row, scene in enumerate(scenes):
        for sprite in scene.sprites:
            place = sprite.placement
            away = torch.maximum((centres[:, None] - place.y).abs(), (centres[None] - place.x).abs()) * 2 / place.side
            cells[row][away < RIM] = NOT_ASKED
            cells[row][away < CORE] = labels[sprite.label]
    return Truth(
        cells,
        torch.tensor([words.styles.index(scene.style) for scene in scenes]),
        torch.tensor([words.backgrounds.index(scene.background.name) for scene in scenes]),
        torch.tensor([len(scene.sprites) for scene in scenes]),
    )


def cells_of(part: Box) -> tuple[slice, slice]:
    """Rows and columns of the cells of a part of the picture."""
    left, top, right, bottom = (round(edge * CELLS) for edge in part)
    return slice(top, bottom), slice(left, right)


def object_shares(answers: Answers, part: Box = WHOLE) -> Tensor:
    """Of the cells that show something in a part of the picture: the share of each label (b, labels)."""
    rows, columns = cells_of(part)
    shown = answers.objects.softmax(1)[:, :-1, rows, columns].sum((2, 3))
    return shown / shown.sum(1, keepdim=True).clamp_min(1e-6)


def object_words(answers: Answers, words: Words, part: Box = WHOLE) -> list[str]:
    """The label that fills most cells of a part; "nothing" where hardly a cell shows anything."""
    rows, columns = cells_of(part)
    shown = 1 - answers.objects.softmax(1)[:, -1, rows, columns]
    is_empty = (shown.amax((1, 2)) < OCCUPIED) | (answers.count.argmax(1) == 0)
    guess = object_shares(answers, part).argmax(1)
    return [NOTHING if empty else words.objects[i] for i, empty in zip(guess.tolist(), is_empty.tolist(), strict=True)]


def object_centres(answers: Answers, label: int) -> Tensor:
    """Where a label is seen: its cells' mean place (b, 2), x then y in [0, 1], weighted by probability."""
    shown = answers.objects.softmax(1)[:, label]
    weight = shown / shown.sum((1, 2), keepdim=True).clamp_min(1e-6)
    centres = ((torch.arange(CELLS) + 0.5) / CELLS).to(shown.device)
    return torch.stack([(weight.sum(1) * centres).sum(1), (weight.sum(2) * centres).sum(1)], 1)
