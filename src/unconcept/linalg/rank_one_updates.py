"""The ridge map on the text, W' = W (I + T), by rank-one updates: one row more or one less costs d^2, whatever came
before.

T = (sum of w (a - c) c^T) (lam I + sum of w c c^T)^-1, where a retained row is one that shall be read as itself.
Rounding accumulates, so this is a preview: what is kept is solved anew (`ridge.py`).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.errors import NumericsError, require


@dataclass
class RankOneMap:
    """T (d, d) and the inverse (d, d) of its system, float64."""

    inverse: Tensor
    t: Tensor

    @classmethod
    def of(cls, width: int, lamb: float) -> "RankOneMap":
        """Of no rows: T = 0."""
        eye = torch.eye(width, dtype=torch.float64)
        return cls(eye / lamb, torch.zeros_like(eye))

    def add(self, c: Tensor, a: Tensor, weight: float) -> None:
        """A row c (d,) is read as a (d,) with this weight; a weight below zero takes such a row back."""
        c, a = c.double(), a.double()
        seen = self.inverse @ c
        share = 1 + weight * float(c @ seen)
        require(
            share > 1e-12,
            "a row is taken back that was not there, or whose rounding outgrew it: solve anew",
            NumericsError,
        )
        gain = weight / share * seen
        self.t += torch.outer(a - c - self.t @ c, gain)
        self.inverse -= torch.outer(gain, seen)
