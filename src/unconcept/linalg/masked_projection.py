"""Projects a matrix change onto changes within a mask that are orthogonal to protected directions.

Each row has its own support, so there is one problem for each row. With D the diagonal of a row's mask and B (d, q) the
protected directions, orthonormal, its solution is x -> D x - D B (B^T D B)^+ B^T D x. While the masks stay the same,
B^T D B = L L^T is factorised once and L^-1 is applied twice: an explicit inverse would lose all digits where two
protected directions almost coincide on a support. Everything is float64.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

# Added to B^T D B, whose eigenvalues are 0 to 1. The resulting error, half its root, is below the rounding of float32.
_FACTOR_JITTER = 1e-14
# Numbers in all factors, 1 GiB: `moji` with 52 texts has 7 million, SD 1.4 with 200 texts would have a billion.
_MOST_FACTOR_NUMBERS = 2**27


def project_within_masks(change: Tensor, mask: Tensor, basis: Tensor, factor: Tensor | None = None) -> Tensor:
    """Project `change` (o, d) to zeros outside `mask` (o, d) and rows orthogonal to the columns of `basis` (d, q).

    Returns the nearest such matrix. A `factor` (o, q, q) from `mask_factors` makes it four products; without a factor
    it takes conjugate gradients.
    """
    wide, basis = (change * mask).double(), basis.double()
    left = wide @ basis
    if factor is None:
        found = _descended(left, wide, mask, basis, torch.finfo(change.dtype).eps)
    else:
        found = (factor.mT @ (factor @ left[:, :, None]))[:, :, 0]
    return (wide - (found @ basis.T) * mask).to(change.dtype)


def mask_factors(masks: Sequence[Tensor], bases: Sequence[Tensor | None]) -> list[Tensor | None]:
    """L^-1 (o, q, q) of every row, for each matrix with protected directions.

    None for a matrix without them, and for all matrices if the factors would take too much memory.
    """
    sizes = [0 if basis is None else len(mask) * basis.shape[1] ** 2 for mask, basis in zip(masks, bases, strict=True)]
    fits = sum(sizes) <= _MOST_FACTOR_NUMBERS
    return [
        None if basis is None or not fits else _factor(mask, basis.double())
        for mask, basis in zip(masks, bases, strict=True)
    ]


def _factor(mask: Tensor, basis: Tensor) -> Tensor:
    d, q = basis.shape
    pairs = (basis[:, :, None] * basis[:, None, :]).view(d, q * q)
    one = torch.eye(q).to(basis)
    lower = torch.linalg.cholesky((mask.to(basis) @ pairs).view(-1, q, q) + _FACTOR_JITTER * one)
    inverse: Tensor = torch.linalg.solve_triangular(lower, one.expand_as(lower), upper=False)
    return inverse


def _descended(left: Tensor, wide: Tensor, mask: Tensor, basis: Tensor, rounding: float) -> Tensor:
    """Solve (B^T D B) x = `left` for x (o, q) by conjugate gradients, all rows at once."""
    found, way = torch.zeros_like(left), left.clone()
    # Solved to the rounding of the input's dtype, relative to each row's size: the result is returned in that dtype.
    limit, squares = (rounding * wide.norm(dim=1)).square(), left.square().sum(1)
    for _ in range(2 * basis.shape[1]):
        if bool((squares <= limit).all()):
            break
        along = ((way @ basis.T) * mask) @ basis
        step = squares / (way * along).sum(1).clamp_min(1e-300)
        step = torch.where(squares > limit, step, 0.0)
        found, left = found + step[:, None] * way, left - step[:, None] * along
        before, squares = squares, left.square().sum(1)
        way = left + (squares / before.clamp_min(1e-300))[:, None] * way
    return found
