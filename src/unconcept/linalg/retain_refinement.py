"""The refined retain set of SPEED: the texts that an erasure changes most, and noisy copies of them.

A copy is c + g v, with v the weakest direction of a map and one random number g. The norm of its shift and the second
moments of all copies follow from scalars, so no copy is ever formed.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class RefinedRetainSet:
    """Rows c with their copies along v, as the terms of their mean second moment.

    The moment is sum_i w_i c_i c_i^T + u v^T + v u^T + s v v^T with u = sum_i a_i c_i.
    """

    rows: Tensor  # c (m, d)
    weights: Tensor  # w (m,)
    direction: Tensor  # v (d,)
    along: Tensor  # a (m,)
    square: Tensor  # s

    @classmethod
    def without_copies(cls, rows: Tensor) -> "RefinedRetainSet":
        """A retain set of rows (m, d) alone."""
        return cls(
            rows,
            torch.full_like(rows[:, 0], 1 / len(rows)),
            torch.zeros_like(rows[0]),
            torch.zeros_like(rows[:, 0]),
            rows.new_zeros(()),
        )

    def moment(self) -> Tensor:
        """The mean second moment (d, d) of rows and copies."""
        mixed = torch.outer(self.along @ self.rows, self.direction)
        return (
            (self.rows.T * self.weights) @ self.rows
            + mixed
            + mixed.T
            + self.square * torch.outer(self.direction, self.direction)
        )

    def reduced(self) -> tuple[Tensor, "RefinedRetainSet"]:
        """Return an orthonormal basis Q (d, m + 1) of rows and direction, and the set in its coordinates."""
        basis, upper = torch.linalg.qr(torch.cat([self.rows.T, self.direction[:, None]], 1))
        return basis, replace(self, rows=upper[:, :-1].T, direction=upper[:, -1])


def weakest_direction(w: Tensor) -> Tensor:
    """The right singular vector (d,) for the smallest of the min(o, d) singular values of w (o, d).

    Its largest entry is positive. Only one eigenvector of the smaller Gram matrix is computed.
    """
    wide = w.double()
    tall = wide.shape[0] >= wide.shape[1]
    gram = wide.T @ wide if tall else wide @ wide.T
    from scipy.linalg import eigh  # Imported here because the import takes as long as a small edit.

    vector = eigh(gram.cpu().numpy(), subset_by_index=[0, 0], driver="evr", check_finite=False)[1][:, 0]
    found = torch.from_numpy(vector).to(wide)
    if not tall:
        found = wide.T @ found
        found /= found.norm().clamp_min(torch.finfo(found.dtype).tiny)
    return found * (1 if found[found.abs().argmax()] >= 0 else -1)


def strongly_changed_rows(rows: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """Whether the edit up @ down, (o, r) (r, d), moves each row (n, d) by more than the mean: (n,) bool.

    All rows count if all move equally far.
    """
    shift = ((rows @ down.T) @ up.T).norm(dim=1)
    above = shift > shift.mean()
    return above if above.any() else torch.ones_like(above)


def augment_rows(rows: Tensor, up: Tensor, down: Tensor, direction: Tensor, noise: Tensor) -> RefinedRetainSet:
    """Make the refined set of rows c (m, d) and those of their copies that an edit moves more than the mean copy.

    The copies are c_i + noise_ij v with v = `direction` (d,) and noise (m, a); the edit is up @ down, (o, r) (r, d).
    """
    shift, along = (rows @ down.T) @ up.T, up @ (down @ direction)
    squared = (
        shift.square().sum(1, keepdim=True)
        + 2 * noise * (shift @ along)[:, None]
        + noise.square() * along.square().sum()
    )
    size = squared.clamp_min(0).sqrt()
    chosen = (size > size.mean()).to(noise)
    counts = 1 + chosen.sum(1)
    total = counts.sum()
    return RefinedRetainSet(
        rows, counts / total, direction, (noise * chosen).sum(1) / total, (noise.square() * chosen).sum() / total
    )
