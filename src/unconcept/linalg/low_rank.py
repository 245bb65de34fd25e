"""Low-rank changes dW of named matrices, each a pair up (o, r), down (r, d), and their fusion into one (MACE,
arXiv:2403.06135).
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .moments import SecondMoments
from .ridge import RidgeSystem

LowRankPair = tuple[Tensor, Tensor]
LowRankPairs = Mapping[str, LowRankPair]
_RANK_TOLERANCE = 1e-6  # of the largest direction: rounding
_CHEAP_SVD_ROWS = 256  # rows for which an SVD costs nothing


def sum_pairs(parts: Sequence[LowRankPairs]) -> dict[str, LowRankPair]:
    """Their sum by name: ranks add up. Float64; a part may lack a name."""
    found: dict[str, list[LowRankPair]] = {}
    for part in parts:
        for name, pair in part.items():
            found.setdefault(name, []).append(pair)
    return {name: _joined(pairs) for name, pairs in found.items()}


def _joined(pairs: Sequence[LowRankPair]) -> LowRankPair:
    """One pair of all their rows and columns, float64."""
    ups, downs = zip(*pairs, strict=True)
    up = torch.cat([each.double() for each in ups], 1)
    return up, torch.cat([each.double().to(up.device) for each in downs])


def changes_on_rows(pairs: LowRankPairs, rows: SecondMoments) -> dict[str, LowRankPair]:
    """dW G: what the changes do to rows with moments G (d, d), against those rows."""
    return {name: (up, down.to(rows.gram) @ rows.gram) for name, (up, down) in pairs.items()}


def fuse_pairs(parts: Sequence[LowRankPairs], system: RidgeSystem) -> dict[str, LowRankPair]:
    """(sum_i dW_i G_i) A^-1 of parts dW_i G_i, with A = sum_i G_i + P + lam I: one solve a matrix."""
    return {name: (up, system.solve(down)) for name, (up, down) in sum_pairs(parts).items()}


def without_preserved(pairs: LowRankPairs, system: RidgeSystem) -> dict[str, LowRankPair]:
    """dW (I - P A^-1): what is left of changes that the preserved rows P do not know."""
    return {
        name: (up, down.to(system.factor) + system.preserved_correction(-down)) for name, (up, down) in pairs.items()
    }


def numerical_rank(up: Tensor, down: Tensor) -> int:
    """Of up (o, r) @ down (r, d): directions above a millionth of the largest, which is what factors in float32 can
    tell.
    """
    left, right = up.detach().double(), down.detach().double()
    if len(right) <= _CHEAP_SVD_ROWS:
        sizes = torch.linalg.svdvals(torch.linalg.qr(left, "r")[1] @ torch.linalg.qr(right.T, "r")[1].T)
        return int((sizes > _RANK_TOLERANCE * sizes.max()).sum()) if len(sizes) and sizes.max() else 0
    from scipy.linalg import lapack  # Here, since its import takes as long as a small edit.

    gram = (right.T @ (left.T @ left) @ right).cpu().numpy()
    # A pivoted Cholesky factorisation tells the rank at a tenth of the cost of an SVD.
    return int(lapack.dpstrf(gram, tol=_RANK_TOLERANCE**2 * gram.diagonal().max(initial=0.0))[2]) if gram.any() else 0


def reduce_rows(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The same X^T Y and Y^T Y in at most d rows: Y = Q R, so X^T Y = (Q^T X)^T R. x, y (n, d)."""
    if len(y) <= y.shape[1]:
        return x, y
    q, upper = torch.linalg.qr(y)
    return q.T @ x, upper


def truncate_rank(delta: Tensor, rank: int | None = None) -> tuple[Tensor, Tensor]:
    """up (o, r) @ down (r, d) nearest to delta (o, d) in the Frobenius norm, in float64; None keeps every direction."""
    left, sizes, right = torch.linalg.svd(delta.double(), full_matrices=False)
    return _split(left, sizes, right, rank)


def truncate_product(up: Tensor, down: Tensor, rank: int | None = None) -> tuple[Tensor, Tensor]:
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
