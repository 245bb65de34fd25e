"""How well conditioned the systems are that a computation solves, whoever solves them: gathered where they are factorised."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import scipy.linalg
from torch import Tensor

_seen: ContextVar[list[float] | None] = ContextVar("conditions", default=None)


@contextmanager
def conditions() -> Iterator[list[float]]:
    """Inside, the condition number of every system that is factorised is added to the list."""
    found: list[float] = []
    token = _seen.set(found)
    try:
        yield found
    finally:
        _seen.reset(token)


def noted(a: Tensor, factor: Tensor) -> None:
    """Note the condition number of a system that was factorised."""
    found = _seen.get()
    if found is not None:
        found.append(condition(a, factor))


def condition(a: Tensor, factor: Tensor) -> float:
    """|A| |A^-1| in the 1-norm, as LAPACK estimates it from A's lower Cholesky factor: costs d^2, and is rarely off by more than a factor of three."""
    inverse, failed = scipy.linalg.lapack.dpocon(factor.cpu().numpy(), float(a.abs().sum(0).max()), uplo="L")
    return 1 / inverse if inverse and not failed else float("inf")
