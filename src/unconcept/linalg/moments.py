"""Streaming second moments C^T C of rows of text states, the form in which closed-form edits use a retain or prior set.

They are d x d float64 for any number of rows, and the sum of two moments is the moment of the union.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor

from ..core.errors import UsageError, require
from ..core.output_folder import write_atomically

ROW_CHUNK = 4096  # rows converted to float64 at once
# Columns of a block: only the blocks of C^T C on and below the diagonal are computed, which saves a third of the time.
COLUMN_BLOCK = 192


def weigh_rows(rows: Tensor, weights: Sequence[float] | None, counts: Sequence[int] | None = None) -> Tensor:
    """Return rows (r, d) times the roots of weights, so that sums of their outer products are weighted; None: as given.

    `counts` are the rows of each weight, in order; None: equally many.
    """
    if weights is None:
        return rows
    each = torch.tensor(counts or [len(rows) // len(weights)] * len(weights))
    roots = torch.tensor(weights, dtype=torch.float64).sqrt().repeat_interleave(each)
    return rows * roots[:, None].to(rows)


@dataclass(frozen=True)
class SecondMoments:
    """`gram` (d, d) float64 is the sum of outer products of `count` rows."""

    gram: Tensor
    count: int = 0

    @classmethod
    def empty(cls, width: int, device: torch.device | str = "cpu") -> "SecondMoments":
        return cls(torch.zeros(width, width, dtype=torch.float64, device=device))

    @classmethod
    def of(cls, rows: Tensor) -> "SecondMoments":
        """Moments of rows (n, d) of any floating dtype."""
        return cls.over([rows], rows.shape[1], rows.device)

    @classmethod
    def over(cls, parts: Iterable[Tensor], width: int, device: torch.device | str = "cpu") -> "SecondMoments":
        """Moments of all rows (n, width) of several parts, which are read one after another."""
        gram, count = torch.zeros(width, width, dtype=torch.float64, device=device), 0
        for rows in parts:
            count += len(rows)
            for part in rows.split(ROW_CHUNK):
                wide = part.double()
                for i in range(0, width, COLUMN_BLOCK):
                    gram[i : i + COLUMN_BLOCK, : i + COLUMN_BLOCK].addmm_(
                        wide.T[i : i + COLUMN_BLOCK], wide[:, : i + COLUMN_BLOCK]
                    )
        return cls(gram.tril() + gram.tril(-1).T, count)

    def __add__(self, other: "SecondMoments") -> "SecondMoments":
        require(
            self.gram.shape == other.gram.shape,
            f"moments of width {len(self.gram)} and {len(other.gram)} cannot be added: give states of one model",
            UsageError,
        )
        return SecondMoments(self.gram + other.gram, self.count + other.count)

    def weighted(self, weight: float) -> "SecondMoments":
        """Moments in which every row's outer product counts `weight` times; weight 0 gives empty moments."""
        require(0 <= weight < float("inf"), f"the weight of moments must be >= 0 and finite, got {weight}", UsageError)
        return SecondMoments(weight * self.gram, self.count if weight else 0)

    def save(self, path: Path) -> None:
        """Write a file that `load` reads. Raises `OutputError` if that is not possible."""
        write_atomically(path, to_bytes({"gram": self.gram.cpu(), "count": torch.tensor(self.count)}))

    @classmethod
    def load(cls, path: Path) -> "SecondMoments":
        """Load a file that `save` wrote; `UsageError` if it contains no moments."""
        try:
            tensors = load_file(path)
            return cls(tensors["gram"], int(tensors["count"]))
        except (OSError, SafetensorError, KeyError) as error:
            raise UsageError(f"moments {path}: {error}; the file is missing or contains something else") from None


@dataclass(frozen=True)
class RowShifts:
    """Moments of rows c that an edit maps to rows a, and `cross` (d, d) float64, the sum of (a - c)^T c."""

    moments: SecondMoments
    cross: Tensor

    @classmethod
    def of(cls, rows: Tensor, wanted: Tensor) -> "RowShifts":
        """Make them from `rows` c (n, d) and, for each, the row a in `wanted` (n, d) that replaces it."""
        cross = torch.zeros(rows.shape[1], rows.shape[1], dtype=torch.float64, device=rows.device)
        for c, a in zip(rows.split(ROW_CHUNK), wanted.split(ROW_CHUNK), strict=True):
            wide = c.double()
            cross.addmm_((a.double() - wide).T, wide)
        return cls(SecondMoments.of(rows), cross)

    def __add__(self, other: "RowShifts") -> "RowShifts":
        return RowShifts(self.moments + other.moments, self.cross + other.cross)
