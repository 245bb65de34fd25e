"""Projectors onto the approximate null space of a second moment, and the ridge edit inside one.

P = I - B B^T is stored as B, the removed directions. They are few if little is retained, and a product with P costs two
thin products. Everything is float64.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .cholesky import stable_cholesky
from .retain_refinement import RefinedRetainSet
from .ridge import FLOAT64_EPSILON, RidgeDirections

_ROUNDING_TOLERANCE = 1e-10  # relative to the size of a protected row: a smaller rest is rounding


@dataclass(frozen=True)
class NullSpaceProjector:
    """P = I - B B^T, symmetric and idempotent."""

    removed_basis: Tensor  # B (d, q), orthonormal columns
    gap: float = 1 / FLOAT64_EPSILON
    """The smallest removed eigenvalue divided by the largest remaining one, which counts at least as rounding."""

    @property
    def rank(self) -> int:
        """The number of remaining directions."""
        return self.removed_basis.shape[0] - self.removed_basis.shape[1]

    def __call__(self, rows: Tensor) -> Tensor:
        """Return rows (n, d) times P."""
        return project_out(rows, self.removed_basis)

    def protecting(self, rows: Tensor) -> "NullSpaceProjector":
        """A smaller projector with rows P = 0 for rows (n, d) too.

        An edit D P then leaves the outputs for these rows unchanged: a hard equality without an inverse that could
        blow up. It uses a pivoted QR that stops where only rounding is left of the rows.
        """
        if not len(rows):
            return self
        columns = self(self(rows)).T
        from scipy.linalg import qr  # Imported here because the import takes as long as a small edit.

        q, upper, _ = qr(columns.cpu().numpy(), mode="economic", pivoting=True, check_finite=False)
        left = torch.from_numpy(upper.diagonal().copy()).abs() > _ROUNDING_TOLERANCE * float(rows.norm(dim=1).max())
        found = torch.from_numpy(q).to(columns)[:, : int(left.sum())]
        # If little was left of a row, rounding adds parts along B to its direction; a second projection removes them.
        found = torch.linalg.qr(self(found.T).T)[0]
        return replace(self, removed_basis=torch.cat([self.removed_basis, found], 1))


def null_projector(refined: RefinedRetainSet, threshold: float) -> NullSpaceProjector:
    """Make the projector onto the eigenvectors of the set's second moment with eigenvalues below `threshold`.

    With fewer rows than dimensions, the eigenvalues are computed in the span of the rows, from their QR.
    """
    m, d = refined.rows.shape
    if m + 1 < d:
        span, small = refined.reduced()
        values, vectors = torch.linalg.eigh(small.moment())
        vectors = span @ vectors
    else:
        values, vectors = torch.linalg.eigh(refined.moment())
    above = values >= threshold
    if not above.any():
        return NullSpaceProjector(vectors[:, :0])
    kept = max(float(values[~above].max()) if not above.all() else 0.0, FLOAT64_EPSILON * float(values.max()))
    return NullSpaceProjector(vectors[:, above], float(values[above].min()) / kept)


def projected_directions(c: Tensor, projector: NullSpaceProjector, ridge: float) -> RidgeDirections:
    """Solve for Y (n, d) of the edit W' = W + E Y P.

    It minimises |(W' - W) C - E|^2 + ridge |W' - W|^2 over edits of the form D P. The rows of c (n, d) are texts, and
    the system is solved in their space: Y = (ridge I + C P C^T)^-1 C P.
    """
    inside = projector(c)
    found = stable_cholesky(inside @ inside.T + ridge * torch.eye(len(c), dtype=c.dtype, device=c.device))
    return RidgeDirections(torch.cholesky_solve(inside, found.lower), found.jitter, found.condition)


def soft_projected_directions(
    c: Tensor, held: Tensor, projector: NullSpaceProjector, ridge: float, softness: float
) -> RidgeDirections:
    """Solve for Y (n, d) of SPEED's published update with its regularised inverse.

    The larger `softness`, the less the `held` rows (q, d) are preserved. With C and K the columns of texts and of held
    rows and M = (C C^T P + ridge I)^-1, that update is
    Y = C^T P (I - M K (K^T P M K + softness I)^-1 K^T P) M. M is applied by Woodbury, so nothing d x d is formed.
    """
    plain = projected_directions(c, projector, ridge)
    inside = projector(held)
    through = (inside - (inside @ c.T) @ plain.y) / ridge  # K^T P M
    found = stable_cholesky(through @ held.T + softness * torch.eye(len(held), dtype=c.dtype, device=c.device))
    return RidgeDirections(
        plain.y - (plain.y @ held.T) @ torch.cholesky_solve(through, found.lower),
        max(found.jitter, plain.jitter),
        max(found.condition, plain.condition),
    )


def identity_projector(d: int) -> NullSpaceProjector:
    """The identity of d dimensions."""
    return NullSpaceProjector(torch.zeros(d, 0, dtype=torch.float64))


def project_out(rows: Tensor, taken: Tensor) -> Tensor:
    """Return rows (n, d) times I - B B^T for columns B (d, q), without forming that matrix."""
    return rows - (rows @ taken) @ taken.T


def soft_projection_basis(rows: Tensor) -> Tensor:
    """B (d, m) of the soft projection I - B B^T = I - C (C^T C + r I)^-1 C^T (arXiv:2511.07970).

    The columns of C are the given rows (m, d), and r = max(1e-4, 1e-6 tr(C^T C) / m).
    """
    inner = rows @ rows.T
    r = max(1e-4, 1e-6 * float(inner.trace()) / len(rows))
    found = stable_cholesky(inner + r * torch.eye(len(rows), dtype=rows.dtype, device=rows.device))
    solution: Tensor = torch.linalg.solve_triangular(found.lower, rows, upper=False).T
    return solution


def dissimilar_rows(rows: Tensor, cosine: float) -> Tensor:
    """Select, in order, the rows (n, d) whose cosine with every row selected before is below `cosine`."""
    directions, found = torch.nn.functional.normalize(rows, dim=1), list[int]()
    for i, direction in enumerate(directions):
        if not found or float((directions[found] @ direction).max()) < cosine:
            found.append(i)
    return rows[found]
