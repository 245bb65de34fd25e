"""Latents as rows, one for each square of four cells: what FLUX.1, Chroma and Qwen-Image read and predict."""

from torch import Tensor
from torch.nn import functional as F


def pack_latents(latents: Tensor) -> Tensor:
    """Pack latents (b, c, h, w) into rows (b, h/2 * w/2, 4c), one for each square of four cells."""
    return F.pixel_unshuffle(latents, 2).flatten(2).transpose(1, 2)


def unpack_latents(rows: Tensor, height: int, width: int) -> Tensor:
    """The inverse of `pack_latents`, for `height` x `width` squares."""
    return F.pixel_shuffle(rows.transpose(1, 2).unflatten(2, (height, width)), 2)
