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

from ..core.errors import NumericsError, require
from .conditions import condition_number
from .moments import RowShifts, SecondMoments

FLOAT64_EPSILON = torch.finfo(torch.float64).eps
RELATIVE_JITTERS = (0.0, 1e-14, 1e-12, 1e-10)  # times the mean of A's diagonal: tried in turn and reported


@dataclass(frozen=True)
class CholeskyFactor:
    """L of a symmetric matrix A + jitter * mean(diagonal) * I = L L^T, with the jitter that was needed."""

    lower: Tensor
    jitter: float
    """Added to the diagonal, relative to its mean; 0 unless the plain factorisation failed."""
    condition: float
    """Condition number of A."""


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

    factor: Tensor  # lower Cholesky factor of A, float64
    preserve: SecondMoments  # P R P^T
    jitter: float
    condition: float  # of A

    def solve(self, rows: Tensor) -> Tensor:
        """Return rows (.., d) times A^-1, float64."""
        return torch.cholesky_solve(rows.to(self.factor).T, self.factor).T

    def preserved_correction(self, gap: Tensor) -> Tensor:
        """gap P R P^T A^-1 (o, d): the correction by which retained rows keep the values of W0 = W + gap (o, d)."""
        return self.solve(gap.to(self.factor) @ self.preserve.gram)


def ridge_system(erase: SecondMoments, preserve: SecondMoments, lamb: float) -> RidgeSystem:
    """Factorise A = lam I + C S C^T + P R P^T from its sums. `SettingsError` if lamb = 0 leaves it singular."""
    require(0 <= lamb < float("inf"), f"lamb must be >= 0 and finite, got {lamb}")
    total = erase + preserve
    n, d = total.count, len(total.gram)
    require(lamb > 0 or n >= d, f"lamb = 0 with {n} texts in {d} dimensions is singular: use lamb > 0")
    a = total.gram + lamb * torch.eye(d, dtype=total.gram.dtype, device=total.gram.device)
    found = stable_cholesky(a)
    message = f"lamb = 0 and the rows do not span the {d} dimensions: use lamb > 0, or retain more texts"
    # Rounding can hide a missing dimension from the factorisation, but not from the condition number.
    require(lamb > 0 or (found.jitter == 0 and found.condition < 1 / FLOAT64_EPSILON), message)
    return RidgeSystem(found.lower, preserve, found.jitter, found.condition)


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
    return RidgeTextMap(identity, y, system.jitter, system.condition)


def ridge_map(shifts: RowShifts, preserve: SecondMoments, lamb: float) -> RidgeTextMap:
    """Solve for T (d, d) of W' = W (I + T), T = (sum of (a - c) c^T) A^-1, from moments of the rows: X = I, Y = T."""
    system = ridge_system(shifts.moments, preserve, lamb)
    y = system.solve(shifts.cross)
    identity = torch.eye(len(y), dtype=y.dtype, device=y.device)
    return RidgeTextMap(identity, y, system.jitter, system.condition)


def ridge_directions(
    targets: Tensor, retain: Tensor | SecondMoments, erase_scale: float, preserve_scale: float, lamb: float
) -> RidgeDirections:
    """Solve for Y (n, d) of the ridge edit. Rows of `targets` (n, d) and `retain` (m, d) are texts; m may be 0.

    `retain` may be given as its moments. With fewer texts than dimensions the system is solved in the space of the
    texts (Woodbury), otherwise in the d dimensions.
    """
    require(lamb >= 0, f"lamb must be >= 0, got {lamb}")
    n, d = targets.shape
    if isinstance(retain, SecondMoments) and not retain.count:
        retain = targets[:0]
    if isinstance(retain, Tensor) and lamb > 0 and n + len(retain) < d:
        return _among_texts(targets.double(), retain.double(), erase_scale, preserve_scale, lamb)
    return _among_dimensions(targets.double(), retain, erase_scale, preserve_scale, lamb)


def _among_dimensions(c: Tensor, p: Tensor | SecondMoments, s: float, w: float, lamb: float) -> RidgeDirections:
    """Solve in d dimensions: one Cholesky factor of A (d, d), n right-hand sides."""
    kept = p if isinstance(p, SecondMoments) else SecondMoments.of(p)
    system = ridge_system(SecondMoments.of(c).weighted(s), kept.weighted(w), lamb)
    return RidgeDirections(system.solve(s * c), system.jitter, system.condition)


def _among_texts(c: Tensor, p: Tensor, s: float, w: float, lamb: float) -> RidgeDirections:
    """Solve in the space of the texts, by Woodbury with Z the weighted rows of C and P.

    A^-1 = (I - Z^T (lam I + Z Z^T)^-1 Z) / lam.
    """
    z = torch.cat([s**0.5 * c, w**0.5 * p])
    gram = z @ z.T
    found = stable_cholesky(gram + lamb * torch.eye(len(z), dtype=z.dtype, device=z.device))
    # A^-1 Z^T = Z^T (lam I + Z Z^T)^-1, so the targets' columns need no division by lam.
    selected = torch.cholesky_solve(torch.eye(len(z), len(c), dtype=z.dtype, device=z.device), found.lower)
    return RidgeDirections(s**0.5 * (z.T @ selected).T, found.jitter, found.condition)


def stable_cholesky(a: Tensor) -> CholeskyFactor:
    """Factorise a symmetric matrix with as little jitter as needed; `NumericsError` if none is enough."""
    require(
        bool(torch.isfinite(a).all()),
        "the system contains NaN or infinity: the model's text states are broken, check its checkpoint",
        NumericsError,
    )
    mean = float(a.diagonal().mean())
    for jitter in RELATIVE_JITTERS:
        factor, failed = torch.linalg.cholesky_ex(a + jitter * mean * torch.eye(len(a), dtype=a.dtype, device=a.device))
        if not failed:
            return CholeskyFactor(factor, jitter, condition_number(a, factor))
    raise NumericsError(
        "the system is singular even with jitter 1e-10: use a larger lamb, or fewer texts that contradict each other"
    )
