"""A part of the method that stands in a module of its own."""

import torch
from torch import Tensor


def dual_rows(rows: Tensor) -> Tensor:
    """Y (n, d) of rows C (n, d), so that Y C^T is the identity."""
    return torch.linalg.pinv(rows.double()).T.to(rows.dtype)
