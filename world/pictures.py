"""Pictures put together from rendered artwork. All are uint8, (b, 64, 64, 3)."""

import torch
from torch import Tensor
from torch.nn import functional as F


def halves(left: Tensor, right: Tensor) -> Tensor:
    """Two pictures at half size, side by side on white, each in the middle of its half."""
    size = left.shape[1]
    both = torch.stack([left, right], 1).flatten(0, 1).permute(0, 3, 1, 2).float()
    small = F.avg_pool2d(both, 2).round().to(torch.uint8).permute(0, 2, 3, 1).unflatten(0, (-1, 2))
    canvas = torch.full_like(left, 255)
    top = size // 4
    canvas[:, top : top + size // 2, : size // 2] = small[:, 0]
    canvas[:, top : top + size // 2, size // 2 :] = small[:, 1]
    return canvas
