"""A map X^T Y, held as two stacks of rows, in no more rows than dimensions."""

import torch
from torch import Tensor


def thinned(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The same X^T Y and Y^T Y in at most d rows: Y = Q R, so X^T Y = (Q^T X)^T R. x, y (n, d)."""
    if len(y) <= y.shape[1]:
        return x, y
    q, upper = torch.linalg.qr(y)
    return q.T @ x, upper
