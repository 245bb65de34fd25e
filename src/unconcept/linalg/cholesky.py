"""Cholesky factors of symmetric systems, with as little jitter as needed.

A large matrix is factorised in its own memory, block by block, and solved with without a copy of the factor.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.errors import NumericsError, require
from .conditions import condition_number, estimated_condition, one_norm

RELATIVE_JITTERS = (0.0, 1e-14, 1e-12, 1e-10)  # times the mean of A's diagonal: tried in turn and reported
_WHOLE = 8192  # a larger matrix is factorised in place
_BLOCK = 2048  # columns factorised at once in place
_ROWS = 1024  # rows looked through at once


@dataclass(frozen=True)
class CholeskyFactor:
    """L of a symmetric matrix A + jitter * mean(diagonal) * I = L L^T, with the jitter that was needed."""

    lower: Tensor
    """L on and below the diagonal; what is above it is not read."""
    jitter: float
    """Added to the diagonal, relative to its mean; 0 unless the plain factorisation failed."""
    condition: float
    """Condition number of A."""

    def solve(self, columns: Tensor) -> Tensor:
        """Solve A X = columns (d, n), float64."""
        if len(self.lower) <= _WHOLE:
            whole: Tensor = torch.cholesky_solve(columns, self.lower)
            return whole
        forward = torch.linalg.solve_triangular(self.lower, columns, upper=False)
        solution: Tensor = torch.linalg.solve_triangular(self.lower.mT, forward, upper=True)
        return solution


def stable_cholesky(a: Tensor, overwrite: bool = False) -> CholeskyFactor:
    """Factorise a symmetric matrix with as little jitter as needed; `NumericsError` if none is enough.

    With `overwrite`, a large matrix is lost, and no other of its size is made.
    """
    require(
        all(bool(torch.isfinite(rows).all()) for rows in a.split(_ROWS)),
        "the system contains NaN or infinity: the model's text states are broken, check its checkpoint",
        NumericsError,
    )
    mean = float(a.diagonal().mean())
    if len(a) > _WHOLE:
        return _factorised_in_place(a if overwrite else a.clone(), mean)
    for jitter in RELATIVE_JITTERS:
        shifted = a
        if jitter:
            shifted = a.clone()
            shifted.diagonal().add_(jitter * mean)
        factor, failed = torch.linalg.cholesky_ex(shifted)
        if not failed:
            return CholeskyFactor(factor, jitter, condition_number(a, factor))
    raise _singular()


def _singular() -> NumericsError:
    return NumericsError(
        "the system is singular even with jitter 1e-10: use a larger lamb, or fewer texts that contradict each other"
    )


def _factorised_in_place(a: Tensor, mean: float) -> CholeskyFactor:
    """Factorise a large matrix in its lower triangle; the upper one stays, for another try with more jitter."""
    size, diagonal = one_norm(a), a.diagonal().clone()
    for jitter in RELATIVE_JITTERS:
        a.diagonal().copy_(diagonal + jitter * mean)
        if _replaced_by_factor(a):
            return CholeskyFactor(a, jitter, estimated_condition(size, a))
        for i in range(0, len(a), _BLOCK):
            a[i:, i : i + _BLOCK] = a[i : i + _BLOCK, i:].triu().mT
    raise _singular()


def _replaced_by_factor(a: Tensor) -> bool:
    """Replace A on and below its diagonal by L, column block by column block; False if A is not positive definite."""
    for i in range(0, len(a), _BLOCK):
        stop = i + _BLOCK
        own, below = a[i:stop, i:stop], a[stop:, i:stop]
        upper = own.triu(1)
        factor, failed = torch.linalg.cholesky_ex(own.tril() - a[i:stop, :i] @ a[i:stop, :i].mT)
        if failed:
            return False
        own.copy_(factor + upper)
        below.addmm_(a[stop:, :i], a[i:stop, :i].mT, alpha=-1)
        below.copy_(torch.linalg.solve_triangular(factor.mT, below, upper=True, left=False))
    return True
