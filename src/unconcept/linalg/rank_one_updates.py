"""Rank-one updates of the ridge map on the text, W' = W (I + T): to add or remove a row costs d^2.

T = (sum of w (a - c) c^T) (lam I + sum of w c c^T)^-1; a retained row has a = c. Rounding accumulates, so the result is
only a preview; an edit that is stored is solved from scratch (`ridge.py`).
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
        """The map of no rows, T = 0."""
        eye = torch.eye(width, dtype=torch.float64)
        return cls(eye / lamb, torch.zeros_like(eye))

    def add(self, c: Tensor, a: Tensor, weight: float) -> None:
        """Add a row c (d,) with its new value a (d,) and a weight; a negative weight removes a row added before."""
        c, a = c.double(), a.double()
        seen = self.inverse @ c
        share = 1 + weight * float(c @ seen)
        require(
            share > 1e-12,
            "a row to remove was never added, or is lost in rounding: solve the map from scratch",
            NumericsError,
        )
        gain = weight / share * seen
        self.t += torch.outer(a - c - self.t @ c, gain)
        self.inverse -= torch.outer(gain, seen)
