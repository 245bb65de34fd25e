"""Condition numbers of the systems that a solver factorises."""

import torch
from torch import Tensor

_EXACT_ROWS = 256  # up to this many dimensions an inverse is cheap


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
    from scipy.linalg import lapack  # Imported here because the import takes as long as a small edit.

    inverse, failed = lapack.dpocon(factor.cpu().numpy(), size, uplo="L")
    return 1 / inverse if inverse and not failed else float("inf")
