"""Converts an edit to the low-rank pairs of a LoRA, one for each module."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.errors import EditError, NumericsError, require
from ...linalg.low_rank import truncate_product, truncate_rank
from ..base import Edit

_DENSE_RANK = 64  # default for a dense edit; LoRAs in circulation have at most 128


@dataclass(frozen=True)
class LoraFactors:
    """Pairs (up, down) in the shapes of LoRA files.

    They are (o, r) and (r, d), or for a convolution (o, r, 1, 1) and (r, i, h, w).
    """

    pairs: Mapping[str, tuple[Tensor, Tensor]]  # by the full name of the weight
    error: float  # |edit - pairs| / |edit|, rounding included

    @property
    def ranks(self) -> tuple[int, int]:
        """The smallest and the largest rank."""
        ranks = [down.shape[0] for _, down in self.pairs.values()]
        return min(ranks), max(ranks)


@torch.no_grad()
def lora_factors(
    edit: Edit, weights: Mapping[str, Tensor], dtype: torch.dtype | None = None, rank: int | None = None
) -> LoraFactors:
    """Factor an edit: a low-rank edit exactly up to the dtype's rounding, a dense one to the nearest of rank `rank`.

    `weights` are those of the unedited model; without a dtype each pair has the dtype of its weight.
    """
    found: dict[str, tuple[Tensor, Tensor]] = {}
    missed = size = 0.0
    for name, weight in weights.items():
        require_matrix(name, weight.ndim)
        up, down = _factors(edit, name, weight, rank)
        kept = dtype or weight.dtype
        up, down = up.to(kept), down.to(kept)
        finite = bool(torch.isfinite(up).all() and torch.isfinite(down).all())
        require(
            finite,
            f"{name}: the LoRA pair does not fit into {str(kept).removeprefix('torch.')}; use --dtype bfloat16 or"
            " float32",
            NumericsError,
        )
        delta = edit.delta(name, weight).double().flatten(1)
        missed += float((delta - up.double() @ down.double()).square().sum())
        size += float(delta.square().sum())
        if weight.ndim > 2:
            up, down = up[:, :, None, None], down.unflatten(1, weight.shape[1:])
        found[name] = up.contiguous(), down.contiguous()
    return LoraFactors(found, (missed / size) ** 0.5 if size else 0.0)


def _factors(edit: Edit, name: str, weight: Tensor, rank: int | None) -> tuple[Tensor, Tensor]:
    factors = edit.thin_factors(name, weight)
    if factors is not None:
        return truncate_product(*factors, rank)
    return truncate_rank(edit.delta(name, weight).flatten(1), rank or _DENSE_RANK)


def require_matrix(name: str, dimensions: int) -> None:
    """Raise `EditError` for biases and norms, which are not matrices, and embeddings, on which no tool puts a LoRA."""
    holds = dimensions in (2, 4) and not name.endswith("_embedding.weight")
    require(holds, f"a LoRA cannot hold {name}; export the edit --to comfyui, single-file or diffusers", EditError)
