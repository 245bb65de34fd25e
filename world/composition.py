"""Pictures of scenes: all drawings of a batch go through one `affine_grid` and `grid_sample`, premultiplied."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional as F

from .artwork import SIZE
from .scenes import Placement, Scene

SLOTS = 3  # objects of a scene at most
BLURRED = 0.45  # a drawing that shrinks further is blurred first, or thin lines would fall between its samples


@dataclass(frozen=True)
class SceneBatch:
    """Scenes as tensors, (n, SLOTS, ...): `drawing` is a row of the artwork, -1 where there is none."""

    drawing: Tensor
    matrix: Tensor
    side: Tensor
    background: Tensor
    """(n, 3) uint8."""

    def __len__(self) -> int:
        return len(self.drawing)

    def rows(self, pick: Tensor) -> "SceneBatch":
        """Some of the scenes."""
        return SceneBatch(*(getattr(self, field.name)[pick] for field in fields(self)))

    def to(self, device: str | torch.device) -> "SceneBatch":
        """The same scenes on a device."""
        return SceneBatch(*(getattr(self, field.name).to(device) for field in fields(self)))


def batch_of(index: dict[tuple[str, str], int], scenes: Sequence[Scene]) -> SceneBatch:
    """The tensors of scenes; `index` is that of the artwork."""
    drawing, matrix, side = [], [], []
    for scene in scenes:
        spare = SLOTS - len(scene.sprites)
        drawing.append([*(index[sprite.icon, scene.style] for sprite in scene.sprites), *[-1] * spare])
        matrix.append([*(placement_matrix(sprite.placement) for sprite in scene.sprites), *[[0.0] * 6] * spare])
        side.append([*(sprite.placement.side for sprite in scene.sprites), *[1.0] * spare])
    background = torch.tensor([scene.background.rgb for scene in scenes], dtype=torch.uint8)
    return SceneBatch(torch.tensor(drawing), torch.tensor(matrix), torch.tensor(side), background)


def joined(batches: Sequence[SceneBatch]) -> SceneBatch:
    """Several batches as one."""
    together = {}
    for field in fields(SceneBatch):
        together[field.name] = torch.cat([getattr(batch, field.name) for batch in batches])
    return SceneBatch(**together)


def placement_matrix(placement: Placement) -> list[float]:
    """From places in the picture to places in the drawing, both in [-1, 1]: a row of `affine_grid`."""
    angle = math.radians(placement.angle)
    cos, sin = math.cos(angle) / placement.side, math.sin(angle) / placement.side
    x, y = 2 * placement.x - 1, 2 * placement.y - 1
    flip = -1 if placement.mirrored else 1
    return [flip * cos, flip * sin, -flip * (cos * x + sin * y), -sin, cos, sin * x - cos * y]


def compose(pixels: Tensor, batch: SceneBatch) -> Tensor:
    """Pictures (n, 3, 64, 64) in [0, 1]; artwork pixels and batch on the same device. Later drawings lie on top."""
    where = batch.drawing >= 0
    layers = pixels[batch.drawing[where]].float() / 255
    small = (batch.side[where] < BLURRED)[:, None, None, None]
    layers = torch.where(small, F.avg_pool2d(layers, 3, 1, 1), layers)
    grid = F.affine_grid(batch.matrix[where].view(-1, 2, 3), list(layers.shape), align_corners=False)
    layers = F.grid_sample(layers, grid, align_corners=False)
    canvas = batch.background.float().div(255)[:, :, None, None].repeat(1, 1, SIZE, SIZE)
    rows, slots = where.nonzero(as_tuple=True)
    for slot in range(SLOTS):
        chosen = layers[slots == slot]
        members = rows[slots == slot]
        canvas[members] = canvas[members] * (1 - chosen[:, 3:]) + chosen[:, :3]
    return canvas.clamp(0, 1)
