"""Training pictures at random sizes, with captions that say so (Kumari et al., Custom Diffusion, CVPR 2023; Concept Ablation)."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

SMALL, LARGE = (1 / 3, 1.0), (1.2, 1.4)  # scales, drawn from the first range two times out of three
FAR, NEAR = ("a far away ", "very small "), ("zoomed in ", "close up ")
FAR_BELOW = 0.6


@dataclass(frozen=True)
class Placed:
    """A picture (3, H, W) at another size on black or cut, where it is (1, h, w) in cells of the latents, and what to say of it."""

    picture: Tensor
    mask: Tensor
    prefix: str


def placed(picture: Tensor, cells: int, rng: torch.Generator) -> Placed:
    """A square picture at a random scale and place, half of them mirrored; `cells` is the side of the latents."""
    side = picture.shape[-1]
    low, high = SMALL if _uniform(rng) < 0.66 else LARGE
    size = max(cells // 4, round(side * (low + (high - low) * _uniform(rng))))
    mirrored = picture.flip(-1) if _uniform(rng) < 0.5 else picture
    scaled = F.interpolate(mirrored[None], (size, size), mode="bilinear", antialias=True)[0].clamp(0, 1)
    if size >= side:
        top, left = (_whole(size - side + 1, rng) for _ in range(2))
        prefix = NEAR[_whole(2, rng)] if size > side else ""
        return Placed(scaled[:, top : top + side, left : left + side], torch.ones(1, cells, cells), prefix)
    top, left = (_whole(side - size + 1, rng) for _ in range(2))
    canvas, mask = torch.zeros_like(picture), torch.zeros(1, cells, cells)
    canvas[:, top : top + size, left : left + size] = scaled
    rows, columns = (_inside(start, start + size, side // cells, cells) for start in (top, left))
    mask[:, rows, columns] = 1
    return Placed(canvas, mask, FAR[_whole(2, rng)] if size < FAR_BELOW * side else "")


def _inside(start: int, stop: int, cell: int, cells: int) -> slice:
    """Cells that lie in the picture as a whole, short of one at each edge, since the encoder sees across it; at least one."""
    first = min(-(-start // cell) + 1, cells - 1)
    return slice(first, max(first + 1, stop // cell - 1))


def _uniform(rng: torch.Generator) -> float:
    return float(torch.rand((), generator=rng))


def _whole(below: int, rng: torch.Generator) -> int:
    return int(torch.randint(below, (), generator=rng))
