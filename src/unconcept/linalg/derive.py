"""Derived embeddings, in closed form (RECE, Eq. of c').

The edited model reads the derived embedding c' as the unedited model reads the embedding c. For each c,
c' minimises sum_l |W'_l c' - W_l c|^2 + lam |c'|^2. The solution c' = R c has one R for every c:
R = (lam I + sum_l W'_l^T W'_l)^-1 sum_l W'_l^T W_l.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.errors import require
from .cholesky import stable_cholesky


@dataclass(frozen=True)
class DerivedMap:
    """R (d, d) float64, with the jitter and the condition number of its solution."""

    matrix: Tensor
    jitter: float  # added to the diagonal, relative to its mean; 0 unless the Cholesky factorisation failed
    condition: float  # of the system that was solved

    def __call__(self, rows: Tensor) -> Tensor:
        """Derived embeddings of rows (.., d), in their dtype."""
        return (rows.to(self.matrix) @ self.matrix.T).to(rows)


def derive_map(edited: Mapping[str, Tensor], reference: Mapping[str, Tensor], lamb: float) -> DerivedMap:
    """Compute R from the text maps (o_l, d) by name, after and before an edit."""
    require(lamb >= 0, f"lamb must be >= 0, got {lamb}")
    require(
        edited.keys() == reference.keys() and bool(edited),
        "edited and reference maps have different names: give the same maps of both models, at least one",
    )
    first = next(iter(edited.values()))
    left = lamb * torch.eye(first.shape[1], dtype=torch.float64, device=first.device)
    right = torch.zeros_like(left)
    for name, after in edited.items():
        wide = after.detach().double()
        left.addmm_(wide.T, wide)
        right.addmm_(wide.T, reference[name].detach().to(wide))
    return _solved(left, right)


def derive_map_through(gram: Tensor, change: Tensor, lamb: float) -> DerivedMap:
    """Compute the same R if one map on the text edits all layers, W'_l = W_l B.

    `gram` (d, d) is sum_l W_l^T W_l, and `change` (d, d) is B.
    """
    require(lamb >= 0, f"lamb must be >= 0, got {lamb}")
    right = change.T @ gram
    return _solved(right @ change + lamb * torch.eye(len(gram), dtype=gram.dtype, device=gram.device), right)


def _solved(left: Tensor, right: Tensor) -> DerivedMap:
    found = stable_cholesky(left)
    return DerivedMap(torch.cholesky_solve(right, found.lower), found.jitter, found.condition)
