"""The ridge edit in delta form, W' = W + E Y^T, where one Y serves every layer.

Minimises sum_i s_i |W' c_i - v*_i|^2 + sum_j w_j |W' p_j - W p_j|^2 + lam |W' - W|^2 over W'. With E = V* - W C its
solution has Y = A^-1 C S, A = lam I + C S C^T + P R P^T (C the targets, P the retained), which knows no layer.
Everything is float64 inside, and A is factorised, never inverted.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.errors import NumericsError, require
from .moments import Moments

JITTERS = (0.0, 1e-14, 1e-12, 1e-10)  # times the mean of A's diagonal: tried in turn, reported


@dataclass(frozen=True)
class Directions:
    """Y (n, d) float64 in rows, with what it took to get it."""

    y: Tensor
    jitter: float  # added to the diagonal, relative to its mean; 0 unless the Cholesky factorisation failed


def ridge_directions(targets: Tensor, retain: Tensor, erase_scale: float, preserve_scale: float, lamb: float) -> Directions:
    """Solve for Y (n, d). `targets` (n, d), `retain` (m, d), rows are texts; m may be 0.

    With fewer texts than dimensions the system is solved among the texts (Woodbury), else among the dimensions.
    """
    require(lamb >= 0, f"lamb must be >= 0, got {lamb}")
    n, m, d = len(targets), len(retain), targets.shape[1]
    require(lamb > 0 or n + m >= d, f"lamb = 0 with {n + m} texts in {d} dimensions is singular: use lamb > 0", NumericsError)
    if lamb > 0 and n + m < d:
        return _among_texts(targets.double(), retain.double(), erase_scale, preserve_scale, lamb)
    return _among_dimensions(targets.double(), retain, erase_scale, preserve_scale, lamb)


def _among_dimensions(c: Tensor, p: Tensor, s: float, w: float, lamb: float) -> Directions:
    """A is d x d: one Cholesky factor, n right-hand sides."""
    a = s * Moments.of(c).gram + w * Moments.of(p).gram + lamb * torch.eye(c.shape[1], dtype=c.dtype, device=c.device)
    factor, jitter = cholesky(a)
    return Directions(torch.cholesky_solve(s * c.T, factor).T, jitter)


def _among_texts(c: Tensor, p: Tensor, s: float, w: float, lamb: float) -> Directions:
    """Woodbury: with Z the weighted rows of C and P, A^-1 = (I - Z^T (lam I + Z Z^T)^-1 Z) / lam."""
    z = torch.cat([s**0.5 * c, w**0.5 * p])
    gram = z @ z.T
    factor, jitter = cholesky(gram + lamb * torch.eye(len(z), dtype=z.dtype, device=z.device))
    # A^-1 Z^T = Z^T (lam I + Z Z^T)^-1, so the targets' columns need no division by lam.
    selected = torch.cholesky_solve(torch.eye(len(z), len(c), dtype=z.dtype, device=z.device), factor)
    return Directions(s**0.5 * (z.T @ selected).T, jitter)


def cholesky(a: Tensor) -> tuple[Tensor, float]:
    """Lower Cholesky factor of a symmetric matrix, and the relative jitter that was needed."""
    require(bool(torch.isfinite(a).all()), "the system holds non-finite values: the model's text states are broken", NumericsError)
    mean = float(a.diagonal().mean())
    for jitter in JITTERS:
        factor, failed = torch.linalg.cholesky_ex(a + jitter * mean * torch.eye(len(a), dtype=a.dtype, device=a.device))
        if not failed:
            return factor, jitter
    raise NumericsError("the system is singular even with jitter 1e-10: use a larger lamb, or fewer texts that contradict each other")
