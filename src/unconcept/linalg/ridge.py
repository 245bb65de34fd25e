"""The ridge edit in delta form, W' = W + E Y^T, where one Y serves every layer.

Minimises sum_i s_i |W' c_i - v*_i|^2 + sum_j w_j |W' p_j - W p_j|^2 + lam |W' - W|^2 over W'. With E = V* - W C its
solution has Y = A^-1 C S, A = lam I + C S C^T + P R P^T (C the targets, P the retained rows), which is the
same for every layer. If there are too many rows for memory, their second moments replace them (`moments.py`). If the
retained rows keep the values W0 p_j of other weights than W, (W0 - W) P R P^T A^-1 is added. Everything is float64
inside, and A is factorised, never inverted.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.errors import require
from .cholesky import CholeskyFactor, stable_cholesky
from .moments import RowShifts, SecondMoments

FLOAT64_EPSILON = torch.finfo(torch.float64).eps


@dataclass(frozen=True)
class RidgeDirections:
    """Y (n, d) float64 in rows, with the jitter and the condition number of its solution."""

    y: Tensor
    jitter: float
    condition: float
    """Condition number of the solved system, or the worst of several."""


@dataclass(frozen=True)
class RidgeSystem:
    """A (d, d), factorised once for every layer."""

    factor: CholeskyFactor
    preserve: SecondMoments  # P R P^T

    def solve(self, rows: Tensor) -> Tensor:
        """Return rows (.., d) times A^-1, float64."""
        return self.factor.solve(rows.to(self.factor.lower).T).T

    def preserved_correction(self, gap: Tensor) -> Tensor:
        """gap P R P^T A^-1 (o, d): the correction by which retained rows keep the values of W0 = W + gap (o, d)."""
        return self.solve(gap.to(self.factor.lower) @ self.preserve.gram)


def ridge_system(erase: SecondMoments, preserve: SecondMoments, lamb: float) -> RidgeSystem:
    """Factorise A = lam I + C S C^T + P R P^T from its sums. `SettingsError` if lamb = 0 leaves it singular."""
    require(0 <= lamb < float("inf"), f"lamb must be >= 0 and finite, got {lamb}")
    total = erase + preserve
    n, d = total.count, total.width
    require(lamb > 0 or n >= d, f"lamb = 0 with {n} texts in {d} dimensions is singular: use lamb > 0")
    total.gram.diagonal().add_(lamb)  # A sum of two moments is a matrix of its own.
    found = stable_cholesky(total.gram, overwrite=True)
    message = f"lamb = 0 and the rows do not span the {d} dimensions: use lamb > 0, or retain more texts"
    # Rounding can hide a missing dimension from the factorisation, but not from the condition number.
    require(lamb > 0 or (found.jitter == 0 and found.condition < 1 / FLOAT64_EPSILON), message)
    return RidgeSystem(found, preserve)


@dataclass(frozen=True)
class RidgeTextMap:
    """T (d, d) of W' = W (I + T), as X^T Y with at most d rows, float64."""

    x: Tensor
    y: Tensor
    jitter: float
    condition: float


def ridge_text_map(
    c: Tensor, a: Tensor, retain: Tensor | SecondMoments, erase_scale: float, preserve_scale: float, lamb: float
) -> RidgeTextMap:
    """Solve for the edit that maps each row of c (n, d) to the row of a (n, d) at the same index, for all layers.

    For up to d rows, X = A - C and Y are thin. For more rows, T itself is solved for with d right-hand sides: X = I,
    Y = T.
    """
    c, a = c.double(), a.double()
    n, d = c.shape
    if n <= d:
        found = ridge_directions(c, retain, erase_scale, preserve_scale, lamb)
        return RidgeTextMap(a - c, found.y, found.jitter, found.condition)
    shifts, kept = RowShifts.of(c, a), retain if isinstance(retain, SecondMoments) else SecondMoments.of(retain)
    system = ridge_system(shifts.moments.weighted(erase_scale), kept.weighted(preserve_scale), lamb)
    identity, y = torch.eye(d, dtype=c.dtype, device=c.device), system.solve(erase_scale * shifts.cross)
    return RidgeTextMap(identity, y, system.factor.jitter, system.factor.condition)


def ridge_map(shifts: RowShifts, preserve: SecondMoments, lamb: float) -> RidgeTextMap:
    """Solve for T (d, d) of W' = W (I + T), T = (sum of (a - c) c^T) A^-1, in the form of fewer unknowns.

    With fewer rows than dimensions, X = A - C and Y are thin, as in `ridge_directions`; with more, X = I and Y = T.
    """
    n, m = shifts.rows_kept, preserve.rows_kept
    if n is not None and m is not None and lamb > 0 and n + m < preserve.width:
        c, x = shifts.rows
        found = _among_texts(c, preserve.rows, 1.0, 1.0, lamb)
        return RidgeTextMap(x, found.y, found.jitter, found.condition)
    system = ridge_system(shifts.moments, preserve, lamb)
    y = system.solve(shifts.cross)
    identity = torch.eye(len(y), dtype=y.dtype, device=y.device)
    return RidgeTextMap(identity, y, system.factor.jitter, system.factor.condition)


def ridge_directions(
    targets: Tensor, retain: Tensor | SecondMoments, erase_scale: float, preserve_scale: float, lamb: float
) -> RidgeDirections:
    """Solve for Y (n, d) of the ridge edit. Rows of `targets` (n, d) and `retain` (m, d) are texts; m may be 0.

    `retain` may be given as its moments. With fewer texts than dimensions the system is solved in the space of the
    texts (Woodbury), otherwise in the d dimensions.
    """
    require(lamb >= 0, f"lamb must be >= 0, got {lamb}")
    n, d = targets.shape
    m = len(retain) if isinstance(retain, Tensor) else retain.rows_kept
    if m is not None and lamb > 0 and n + m < d:
        p = retain.double() if isinstance(retain, Tensor) else retain.rows
        return _among_texts(targets.double(), p, erase_scale, preserve_scale, lamb)
    return _among_dimensions(targets.double(), retain, erase_scale, preserve_scale, lamb)


def _among_dimensions(c: Tensor, p: Tensor | SecondMoments, s: float, w: float, lamb: float) -> RidgeDirections:
    """Solve in d dimensions: one Cholesky factor of A (d, d), n right-hand sides."""
    kept = p if isinstance(p, SecondMoments) else SecondMoments.of(p)
    system = ridge_system(SecondMoments.of(c).weighted(s), kept.weighted(w), lamb)
    return RidgeDirections(system.solve(s * c), system.factor.jitter, system.factor.condition)


def _among_texts(c: Tensor, p: Tensor, s: float, w: float, lamb: float) -> RidgeDirections:
    """Solve in the space of the texts, by Woodbury with Z the weighted rows of C and P.

    A^-1 = (I - Z^T (lam I + Z Z^T)^-1 Z) / lam.
    """
    z = torch.cat([s**0.5 * c, w**0.5 * p])
    gram = z @ z.T
    gram.diagonal().add_(lamb)
    found = stable_cholesky(gram, overwrite=True)
    # A^-1 Z^T = Z^T (lam I + Z Z^T)^-1, so the targets' columns need no division by lam.
    selected = found.solve(torch.eye(len(z), len(c), dtype=z.dtype, device=z.device))
    return RidgeDirections(s**0.5 * (z.T @ selected).T, found.jitter, found.condition)
