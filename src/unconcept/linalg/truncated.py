"""The closest matrix of a given rank, as a pair (up, down) whose two factors are of one size and orthogonal.

Rounding such a pair to half precision costs no more than rounding the matrix itself; rounding a pair whose terms
cancel can cost everything.
"""

import torch
from torch import Tensor


def truncated(delta: Tensor, rank: int | None = None) -> tuple[Tensor, Tensor]:
    """up (o, r) @ down (r, d) nearest to delta (o, d) in the Frobenius norm, in float64; None keeps every direction."""
    left, sizes, right = torch.linalg.svd(delta.double(), full_matrices=False)
    return _split(left, sizes, right, rank)


def refactored(up: Tensor, down: Tensor, rank: int | None = None) -> tuple[Tensor, Tensor]:
    """The same for a product up (o, n) @ down (n, d), which is never formed: down^T = Q R, up @ down = (up R^T) Q^T."""
    q, upper = torch.linalg.qr(down.double().T)
    left, sizes, right = torch.linalg.svd(up.double() @ upper.T, full_matrices=False)
    return _split(left, sizes, right @ q.T, rank)


def _split(left: Tensor, sizes: Tensor, right: Tensor, rank: int | None) -> tuple[Tensor, Tensor]:
    """Directions that are rounding noise are left out; a zero matrix keeps one, so that there is a pair."""
    noise = torch.finfo(sizes.dtype).eps * max(len(left), right.shape[1]) * sizes[0]
    kept = max(1, min(int((sizes > noise).sum()), len(sizes) if rank is None else rank))
    root = sizes[:kept].sqrt()
    return left[:, :kept] * root, root[:, None] * right[:kept]
