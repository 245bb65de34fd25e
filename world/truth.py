"""What is true of scenes, as tensors for the judges."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from unconcept.models.vision.judge_net import CELLS, JudgeLabels

from .scenes import Scene

NOT_ASKED = -100
CORE, RIM = 0.7, 1.05  # a cell inside CORE of a drawing's frame shows it, outside RIM it does not, between is not asked


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


def truth_of(scenes: Sequence[Scene], words: JudgeLabels) -> Truth:
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
