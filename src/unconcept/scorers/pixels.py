"""Distance of two images by their pixels alone, which needs no network: a budget that any machine can keep."""

import torch
from torch import Tensor

from ..core.errors import require
from .registry import scorer


@scorer("pixels", reads="pair")
class PixelDistance:
    """Root mean square difference of pixels in [0, 1]: 0.05 is a PSNR of 26 dB."""

    name = "pixels"
    version = 1
    hash = ""

    def compare(self, before: Tensor, after: Tensor) -> Tensor:
        """Return the distances (b,) of images (b, 3, h, w) in [0, 1]; differentiable in both."""
        require(
            before.shape == after.shape,
            f"images have shapes {tuple(before.shape)} and {tuple(after.shape)}: give pairs of one size",
        )
        change = (after.float() - before.float()).flatten(1)
        found: Tensor = torch.linalg.vector_norm(change, dim=1) / change.shape[1] ** 0.5
        return found
