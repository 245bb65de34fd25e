"""Condition numbers of the systems that a solver factorises."""

import torch
from torch import Tensor

_EXACT_ROWS = 256  # up to this many dimensions an inverse is cheap
_NORM_ROWS = 1024


def condition_figure(*conditions: float) -> dict[str, float]:
    """The worst of several condition numbers for a report; empty if it is infinite, as reports hold finite numbers."""
    worst = max(conditions)
    return {"condition": worst} if worst < float("inf") else {}


def condition_number(a: Tensor, factor: Tensor) -> float:
    """|A| |A^-1| in the 1-norm, from the lower Cholesky factor of A.

    Exact in up to 256 dimensions. Above, LAPACK estimates it, which costs d^2 and is rarely off by more than a factor
    of three.
    """
    size = float(a.abs().sum(0).max())
    if len(a) <= _EXACT_ROWS:
        return size * float(torch.cholesky_inverse(factor).abs().sum(0).max())
    return estimated_condition(size, factor)


def estimated_condition(size: float, factor: Tensor) -> float:
    """LAPACK's estimate of a condition number from |A| and the lower Cholesky factor of A."""
    from scipy.linalg import lapack  # Imported here because the import takes as long as a small edit.

    # LAPACK reads columns: of a matrix that is stored by rows, the transpose is handed over, which copies nothing.
    by_rows = factor.is_contiguous()
    inverse, failed = lapack.dpocon(
        (factor.mT if by_rows else factor).cpu().numpy(), size, uplo="U" if by_rows else "L"
    )
    return 1 / inverse if inverse and not failed else float("inf")


def one_norm(a: Tensor) -> float:
    """The 1-norm of a symmetric matrix (d, d), without another of its size."""
    return max(float(rows.abs().sum(1).max()) for rows in a.split(_NORM_ROWS))
