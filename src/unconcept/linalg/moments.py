"""Streaming second moments C^T C of rows of text states: what a retained or prior set is to a closed-form edit.

d x d float64 whatever the number of rows; sums of moments are moments of the union.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..core.errors import UsageError, require

CHUNK = 4096  # rows widened to float64 at once


@dataclass(frozen=True)
class Moments:
    """`gram` (d, d) float64 is the sum of outer products of `count` rows."""

    gram: Tensor
    count: int = 0

    @classmethod
    def empty(cls, width: int, device: torch.device | str = "cpu") -> "Moments":
        return cls(torch.zeros(width, width, dtype=torch.float64, device=device))

    @classmethod
    def of(cls, rows: Tensor) -> "Moments":
        """Moments of rows (n, d) of any floating dtype."""
        gram = torch.zeros(rows.shape[1], rows.shape[1], dtype=torch.float64, device=rows.device)
        for part in rows.split(CHUNK):
            wide = part.double()
            gram.addmm_(wide.T, wide)
        return cls(gram, len(rows))

    def __add__(self, other: "Moments") -> "Moments":
        require(self.gram.shape == other.gram.shape, f"moments of width {len(self.gram)} and {len(other.gram)} do not add", UsageError)
        return Moments(self.gram + other.gram, self.count + other.count)

    def save(self, path: Path) -> None:
        save_file({"gram": self.gram.cpu(), "count": torch.tensor(self.count)}, path)

    @classmethod
    def load(cls, path: Path) -> "Moments":
        """`UsageError` unless the file holds moments."""
        try:
            tensors = load_file(path)
            return cls(tensors["gram"], int(tensors["count"]))
        except (OSError, SafetensorError, KeyError) as error:
            raise UsageError(f"moments {path}: {error}; the file is missing or holds something else") from None
