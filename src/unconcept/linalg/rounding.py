"""Rounds weights to few bits as storage formats do, and back: what a quantised copy of a model computes with.

Per-channel symmetric integers are those of common int8 and int4 checkpoints. NF4 is Dettmers et al., NeurIPS 2023,
arXiv:2305.14314: 16 levels at quantiles of the normal distribution, one scale for each block of weights.
"""

from functools import cache
from typing import Literal

import torch
from torch import Tensor

from ..core.errors import require

StorageFormat = Literal["int8", "int4", "nf4"]
_BITS = {"int8": 8, "int4": 4}
_TAIL = 0.9677083  # quantile of the outermost level, (1 - 1/30 + 1 - 1/32) / 2: the paper's mean of both sides' tails
_BLOCK = 64  # weights that share a scale in NF4


def round_weight(weight: Tensor, storage: StorageFormat) -> Tensor:
    """Return a weight (o, ...) as it is read back from a storage format, in its own shape and dtype."""
    wide = weight.detach().to(torch.promote_types(weight.dtype, torch.float32))
    rounded = _nf4(wide) if storage == "nf4" else _symmetric(wide, _BITS[storage])
    return rounded.to(weight.dtype)


def _symmetric(weight: Tensor, bits: int) -> Tensor:
    """Round to whole multiples of each output channel's largest entry over 2^(bits - 1) - 1; zero stays zero."""
    require(weight.ndim > 1, f"a weight of shape {tuple(weight.shape)} has no output channels: round matrices alone")
    most = 2 ** (bits - 1) - 1
    rows = weight.flatten(1)
    scale = rows.abs().amax(1, keepdim=True) / most
    scale = torch.where(scale == 0, 1.0, scale)
    return ((rows / scale).round() * scale).view_as(weight)


def _nf4(weight: Tensor) -> Tensor:
    """Round each block of 64 entries, over its largest magnitude, to the nearest of the 16 levels."""
    flat = weight.flatten()
    blocks = torch.nn.functional.pad(flat, (0, -len(flat) % _BLOCK)).view(-1, _BLOCK)
    scale = blocks.abs().amax(1, keepdim=True)
    scale = torch.where(scale == 0, 1.0, scale)
    levels = nf4_levels().to(weight)
    middles = (levels[1:] + levels[:-1]) / 2
    nearest = levels[torch.bucketize(blocks / scale, middles)]
    return (nearest * scale).flatten()[: len(flat)].view_as(weight)


@cache
def nf4_levels() -> Tensor:
    """The 16 levels (16,) float64 in [-1, 1], rising: 8 above zero, zero, and 7 below."""
    above = torch.special.ndtri(torch.linspace(_TAIL, 0.5, 9, dtype=torch.float64)[:-1])
    below = -torch.special.ndtri(torch.linspace(_TAIL, 0.5, 8, dtype=torch.float64)[:-1])
    levels = torch.cat([above, below, torch.zeros(1, dtype=torch.float64)]).sort().values
    return levels / levels.abs().max()
