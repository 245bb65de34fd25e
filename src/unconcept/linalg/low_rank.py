"""Low-rank changes dW of named matrices, and their fusion into one (MACE, arXiv:2403.06135).

Each change is a pair up (o, r), down (r, d).
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .moments import ELEMENTS_AT_ONCE, SecondMoments
from .ridge import RidgeSystem

LowRankPair = tuple[Tensor, Tensor]
LowRankPairs = Mapping[str, LowRankPair]
_RANK_TOLERANCE = 1e-6  # relative to the largest singular value: below is rounding
_CHEAP_SVD_ROWS = 256  # up to this many rows an SVD is cheap
_QR_ROWS = 8192  # from so many rows on a copy of them in float64 is too large


def sum_pairs(parts: Sequence[LowRankPairs]) -> dict[str, LowRankPair]:
    """Sum the pairs of each name in float64. Ranks add up; a part may lack a name."""
    found: dict[str, list[LowRankPair]] = {}
    for part in parts:
        for name, pair in part.items():
            found.setdefault(name, []).append(pair)
    return {name: _joined(pairs) for name, pairs in found.items()}


def _joined(pairs: Sequence[LowRankPair]) -> LowRankPair:
    """Join pairs into one with all their columns and rows, float64."""
    ups, downs = zip(*pairs, strict=True)
    up = torch.cat([each.double() for each in ups], 1)
    return up, torch.cat([each.double().to(up.device) for each in downs])


def changes_on_rows(pairs: LowRankPairs, rows: SecondMoments) -> dict[str, LowRankPair]:
    """dW G by name: the changes times the moments G (d, d) of the rows that they act on."""
    gram = rows.gram
    return {name: (up, down.to(gram) @ gram) for name, (up, down) in pairs.items()}


def fuse_pairs(parts: Sequence[LowRankPairs], system: RidgeSystem) -> dict[str, LowRankPair]:
    """Fuse parts dW_i G_i into (sum_i dW_i G_i) A^-1, A = sum_i G_i + P + lam I, with one solve for each matrix."""
    return {name: (up, system.solve(down)) for name, (up, down) in sum_pairs(parts).items()}


def without_preserved(pairs: LowRankPairs, system: RidgeSystem) -> dict[str, LowRankPair]:
    """dW (I - P A^-1): corrects changes that were computed without the preserved rows P."""
    return {
        name: (up, down.to(system.factor.lower) + system.preserved_correction(-down))
        for name, (up, down) in pairs.items()
    }


def numerical_rank(up: Tensor, down: Tensor) -> int:
    """The rank of up (o, r) @ down (r, d).

    Counts singular values above a millionth of the largest, the resolution of factors in float32.
    """
    up, down = up.detach(), down.detach()
    if len(down) <= _CHEAP_SVD_ROWS:
        left, right = (torch.linalg.qr(each.double(), "r")[1] for each in (up, down.T))
        sizes = torch.linalg.svdvals(left @ right.T)
        return int((sizes > _RANK_TOLERANCE * sizes.max()).sum()) if len(sizes) and sizes.max() else 0
    from scipy.linalg import lapack  # Imported here because the import takes as long as a small edit.

    if len(down) < min(down.shape[1], _QR_ROWS):  # R of down^T = Q R has the same singular values, in fewer columns.
        down = torch.linalg.qr(down.double().T, "r")[1].T
    gram = _gram_of_product(up, down)
    largest = float(gram.diagonal().max())
    # A pivoted Cholesky factorisation yields the rank at a tenth of the cost of an SVD. LAPACK reads columns.
    by_columns = gram.T.cpu().numpy()
    return int(lapack.dpstrf(by_columns, tol=_RANK_TOLERANCE**2 * largest, overwrite_a=1)[2]) if largest else 0


def _gram_of_product(up: Tensor, down: Tensor) -> Tensor:
    """G^T G (d, d) float64 of G = up (o, r) @ down (r, d), on and below its diagonal, some columns at a time."""
    width, size = down.shape[1], max(1, ELEMENTS_AT_ONCE // len(down))
    inner = None if _is_identity(up) else SecondMoments.of(up).gram
    gram = torch.zeros(width, width, dtype=torch.float64, device=down.device)
    for i in range(0, width, size):
        part = down[:, i : i + size].double()
        weighted = part if inner is None else inner @ part
        for j in range(i, width, size):
            gram[j : j + size, i : i + size] = down[:, j : j + size].double().T @ weighted
    return gram


def _is_identity(matrix: Tensor) -> bool:
    is_square = len(matrix) == matrix.shape[1]
    return is_square and bool((matrix.diagonal() == 1).all()) and int(matrix.count_nonzero()) == len(matrix)


def reduce_rows(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Reduce x, y (n, d) to at most d rows with the same X^T Y and Y^T Y: Y = Q R, so X^T Y = (Q^T X)^T R."""
    if len(y) <= y.shape[1]:
        return x, y
    q, upper = torch.linalg.qr(y)
    return q.T @ x, upper


def truncate_rank(delta: Tensor, rank: int | None = None) -> tuple[Tensor, Tensor]:
    """Factor delta (o, d) into the nearest up (o, r) @ down (r, d) (Frobenius norm), float64; None: full rank."""
    left, sizes, right = torch.linalg.svd(delta.double(), full_matrices=False)
    return _split(left, sizes, right, rank)


def truncate_product(up: Tensor, down: Tensor, rank: int | None = None) -> tuple[Tensor, Tensor]:
    """Like `truncate_rank`, for a product up (o, n) @ down (n, d).

    The product is never formed: down^T = Q R, so up @ down = (up R^T) Q^T.
    """
    q, upper = torch.linalg.qr(down.double().T)
    left, sizes, right = torch.linalg.svd(up.double() @ upper.T, full_matrices=False)
    return _split(left, sizes, right @ q.T, rank)


def _split(left: Tensor, sizes: Tensor, right: Tensor, rank: int | None) -> tuple[Tensor, Tensor]:
    """Make a pair without directions that are rounding noise; a zero matrix keeps one direction."""
    noise = torch.finfo(sizes.dtype).eps * max(len(left), right.shape[1]) * sizes[0]
    kept = max(1, min(int((sizes > noise).sum()), len(sizes) if rank is None else rank))
    root = sizes[:kept].sqrt()
    return left[:, :kept] * root, root[:, None] * right[:kept]
