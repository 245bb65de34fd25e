"""How well conditioned the systems are that a computation solves, whoever solves them: gathered where they are
factorised.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

_EXACT_ROWS = 256  # dimensions in which an inverse costs nothing

_seen: ContextVar[list[float] | None] = ContextVar("conditions", default=None)


@contextmanager
def record_conditions() -> Iterator[list[float]]:
    """Inside, the condition number of every system that is factorised is added to the list."""
    found: list[float] = []
    token = _seen.set(found)
    try:
        yield found
    finally:
        _seen.reset(token)


def record_condition(a: Tensor, factor: Tensor) -> None:
    """Note the condition number of a system that was factorised."""
    found = _seen.get()
    if found is not None:
        found.append(condition_number(a, factor))


def condition_number(a: Tensor, factor: Tensor) -> float:
    """|A| |A^-1| in the 1-norm, from A's lower Cholesky factor.

    Exact in few dimensions; in many as LAPACK estimates it, which costs d^2 and is rarely off by more than a factor of
    three.
    """
    size = float(a.abs().sum(0).max())
    if len(a) <= _EXACT_ROWS:
        return size * float(torch.cholesky_inverse(factor).abs().sum(0).max())
    from scipy.linalg import lapack  # Here, since its import takes as long as a small edit.

    inverse, failed = lapack.dpocon(factor.cpu().numpy(), size, uplo="L")
    return 1 / inverse if inverse and not failed else float("inf")
