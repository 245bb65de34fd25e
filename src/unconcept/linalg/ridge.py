"""The ridge edit in delta form, W' = W + E Y^T, where one Y serves every layer.

Minimises sum_i s_i |W' c_i - v*_i|^2 + sum_j w_j |W' p_j - W p_j|^2 + lam |W' - W|^2 over W'. With E = V* - W C its
solution has Y = A^-1 C S, A = lam I + C S C^T + P R P^T (C the targets, P the retained rows), which is the
same for every layer. If there are too many rows for memory, their second moments replace them (`moments.py`). If the
retained rows keep the values W0 p_j of other weights than W, (W0 - W) P R P^T A^-1 is added. Everything is float64
inside, a few columns or rows at a time, and A is factorised, never inverted.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..core.errors import require
from .cholesky import CholeskyFactor, stable_cholesky
from .moments import (
    ELEMENTS_AT_ONCE,
    CountedRows,
    SecondMoments,
    add_outer_products,
    are_few,
    mirror_lower,
    rows_at_once,
)

FLOAT64_EPSILON = torch.finfo(torch.float64).eps
_BLOCK = 2048  # rows of a system that are computed at once
_SOLVED_AT_ONCE = 1024  # right-hand sides of a large system


@dataclass(frozen=True)
class RidgeDirections:
    """Y (n, d) float64 in rows, with the jitter and the condition number of its solution."""

    y: Tensor
    jitter: float
    condition: float
    """Condition number of the solved system, or the worst of several."""


@dataclass(frozen=True)
class RidgeSystem:
    """A (d, d), factorised once for every layer."""

    factor: CholeskyFactor
    preserve: SecondMoments  # P R P^T

    def solve(self, rows: Tensor) -> Tensor:
        """Return rows (.., d) times A^-1, float64."""
        return self.factor.solve(rows.to(self.factor.lower).T).T

    def preserved_correction(self, gap: Tensor) -> Tensor:
        """gap P R P^T A^-1 (o, d): the correction by which retained rows keep the values of W0 = W + gap (o, d)."""
        return self.solve(gap.to(self.factor.lower) @ self.preserve.gram)


def ridge_system(erase: SecondMoments, preserve: SecondMoments, lamb: float) -> RidgeSystem:
    """Factorise A = lam I + C S C^T + P R P^T from its sums. `SettingsError` if lamb = 0 leaves it singular."""
    # A sum of two moments is a matrix of its own.
    return RidgeSystem(_factorised(erase + preserve, lamb), preserve)


def _factorised(total: SecondMoments, lamb: float) -> CholeskyFactor:
    """Factorise lam I + a sum of moments, which is overwritten."""
    require(0 <= lamb < float("inf"), f"lamb must be >= 0 and finite, got {lamb}")
    n, d = total.count, total.width
    require(lamb > 0 or n >= d, f"lamb = 0 with {n} texts in {d} dimensions is singular: use lamb > 0")
    total.gram.diagonal().add_(lamb)
    found = stable_cholesky(total.gram, overwrite=True)
    message = f"lamb = 0 and the rows do not span the {d} dimensions: use lamb > 0, or retain more texts"
    # Rounding can hide a missing dimension from the factorisation, but not from the condition number.
    require(lamb > 0 or (found.jitter == 0 and found.condition < 1 / FLOAT64_EPSILON), message)
    return found


@dataclass(frozen=True)
class RidgeTextMap:
    """T (d, d) of W' = W (I + T), as X^T Y with at most d rows."""

    x: Tensor
    y: Tensor
    jitter: float
    condition: float


def ridge_text_map(
    c: Tensor, a: Tensor, retain: Tensor | SecondMoments, erase_scale: float, preserve_scale: float, lamb: float
) -> RidgeTextMap:
    """Solve for the edit that maps each row of c (n, d) to the row of a (n, d) at the same index, for all layers.

    For up to d rows, X = A - C and Y are thin. For more rows, T itself is solved for with d right-hand sides: X = I,
    Y = T.
    """
    c, a = c.double(), a.double()
    n, d = c.shape
    if n <= d:
        found = ridge_directions(c, retain, erase_scale, preserve_scale, lamb)
        return RidgeTextMap(a - c, found.y, found.jitter, found.condition)
    kept = retain if isinstance(retain, SecondMoments) else SecondMoments.of(retain)
    system = ridge_system(SecondMoments.of(c).weighted(erase_scale), kept.weighted(preserve_scale), lamb)
    cross = torch.zeros(d, d, dtype=c.dtype, device=c.device)
    _add_cross_products(cross, CountedRows(c), a)
    identity, y = torch.eye(d, dtype=c.dtype, device=c.device), system.solve(erase_scale * cross)
    return RidgeTextMap(identity, y, system.factor.jitter, system.factor.condition)


@dataclass(frozen=True)
class RowShifts:
    """Moments of rows c that an edit maps to rows a, and then of preserved rows.

    While all of these, preserved ones and rows a too, are fewer than columns, they are kept; else sums stand for them.
    """

    moments: SecondMoments
    wanted: tuple[Tensor, ...]
    """Rows a of the first terms of `moments`; none if a sum stands for them."""
    sums: Tensor | None = None

    @classmethod
    def over(cls, pairs: Iterable[tuple[Tensor, Tensor]], preserve: SecondMoments) -> "RowShifts":
        """Make them of pairs of rows c and a (n, d), one pair after another, and of preserved rows.

        No pair, and of a sum no other matrix (d, d), is in memory while the next pair is made.
        """
        width, kept, count = preserve.width, preserve.rows_kept, preserve.count
        gram, cross = None, None
        held, wanted = list[CountedRows](), list[Tensor]()
        for pair in pairs:
            both = CountedRows.of(torch.stack(pair, 1))
            held.append(replace(both, data=both.data[:, 0]))
            wanted.append(both.data[:, 1])
            count += len(pair[0])
            del pair, both
            if gram is None and kept is not None and are_few(kept + 2 * sum(len(each.data) for each in held), width):
                continue
            if gram is None or cross is None:
                gram, preserve = preserve.total(), SecondMoments.empty(width)
                cross = held[0].data.new_zeros(width, width, dtype=torch.float64)
            while held:
                _add_pair(gram, cross, held.pop(0), wanted.pop(0))
        if gram is None:
            return cls(SecondMoments((*held, *preserve.terms), count), tuple(wanted))
        return cls(SecondMoments.of_sum(mirror_lower(gram), count), (), cross)

    @property
    def cross(self) -> Tensor:
        """The sum of (a - c)^T c, (d, d) float64."""
        if self.sums is not None:
            return self.sums
        width, held = self.moments.width, self.moments.row_terms
        total = held[0].data.new_zeros(width, width, dtype=torch.float64)
        for part, a in zip(held, self.wanted, strict=False):
            _add_cross_products(total, part, a)
        return total

    def moves(self, dtype: torch.dtype) -> Tensor:
        """A - C (n, d) of the rows that are kept, of which C are the first ones of `moments`."""
        found = []
        for part, a in zip(self.moments.row_terms, self.wanted, strict=False):
            size = rows_at_once(self.moments.width)
            for c, to, root in zip(part.data.split(size), a.split(size), part.roots().split(size), strict=True):
                found.append((to.double() * root - c.double() * root).to(dtype))
        return torch.cat(found)


def _add_pair(gram: Tensor, cross: Tensor, part: CountedRows, wanted: Tensor) -> None:
    add_outer_products(gram, part)
    _add_cross_products(cross, part, wanted)


def _add_cross_products(total: Tensor, part: CountedRows, wanted: Tensor) -> None:
    """Add (a - c)^T c over rows c and the rows a that replace them to a sum (d, d) float64."""
    width = len(total)
    for (wide, weighted), a in zip(part.chunks(width), wanted.split(rows_at_once(width)), strict=True):
        total.addmm_((a.double() - wide).T, weighted)


def ridge_map(shifts: RowShifts, lamb: float, dtype: torch.dtype = torch.float64) -> RidgeTextMap:
    """Solve for T (d, d) of W' = W (I + T), T = (sum of (a - c) c^T) A^-1, in the form of fewer unknowns.

    With fewer rows than dimensions, X = A - C and Y are thin, as in `ridge_directions`. With more, X = I and Y = T, and
    the sums in `shifts` are overwritten. X and Y are of the given dtype.
    """
    if shifts.sums is None and lamb > 0:
        n = sum(map(len, shifts.wanted))
        found = _among_texts(shifts.moments.row_terms, n, lamb, dtype)
        return RidgeTextMap(shifts.moves(dtype), found.y, found.jitter, found.condition)
    y, factor = shifts.cross, _factorised(shifts.moments, lamb)
    for rows in y.split(_SOLVED_AT_ONCE):
        rows.copy_(factor.solve(rows.T).T)
    jitter, condition = factor.jitter, factor.condition
    del factor, shifts
    return RidgeTextMap(torch.eye(len(y), dtype=dtype, device=y.device), y.to(dtype), jitter, condition)


def ridge_directions(
    targets: Tensor, retain: Tensor | SecondMoments, erase_scale: float, preserve_scale: float, lamb: float
) -> RidgeDirections:
    """Solve for Y (n, d) of the ridge edit. Rows of `targets` (n, d) and `retain` (m, d) are texts; m may be 0.

    `retain` may be given as its moments. With fewer texts than dimensions the system is solved in the space of the
    texts (Woodbury), otherwise in the d dimensions.
    """
    require(lamb >= 0, f"lamb must be >= 0, got {lamb}")
    n, d = targets.shape
    kept = SecondMoments((CountedRows(retain),), len(retain)) if isinstance(retain, Tensor) else retain
    if lamb > 0 and kept.rows_kept is not None and n + kept.rows_kept < d:
        preserve = (replace(each, scales=(*each.scales, preserve_scale)) for each in kept.row_terms)
        found = _among_texts([CountedRows(targets, scales=(erase_scale,)), *preserve], n, lamb, torch.float64)
        found.y.mul_(erase_scale**0.5)
        return found
    return _among_dimensions(targets.double(), retain, erase_scale, preserve_scale, lamb)


def _among_dimensions(c: Tensor, p: Tensor | SecondMoments, s: float, w: float, lamb: float) -> RidgeDirections:
    """Solve in d dimensions: one Cholesky factor of A (d, d), n right-hand sides."""
    kept = p if isinstance(p, SecondMoments) else SecondMoments.of(p)
    system = ridge_system(SecondMoments.of(c).weighted(s), kept.weighted(w), lamb)
    return RidgeDirections(system.solve(s * c), system.factor.jitter, system.factor.condition)


def _among_texts(terms: Sequence[CountedRows], count: int, lamb: float, dtype: torch.dtype) -> RidgeDirections:
    """Return the first `count` of Z A^-1, A = lam I + Z^T Z with Z the weighted rows, solved in the space of the texts.

    By Woodbury, A^-1 = (I - Z^T (lam I + Z Z^T)^-1 Z) / lam, so that Z A^-1 = (lam I + Z Z^T)^-1 Z needs no division by
    lam. Z is made a few columns at a time.
    """
    system = _row_products(terms)
    system.diagonal().add_(lamb)
    found, selected = stable_cholesky(system, overwrite=True), None
    if count <= _BLOCK:  # Those of few rows are found first, once for all columns.
        selected = found.solve(torch.eye(len(system), count, dtype=system.dtype, device=system.device))
    y = torch.empty(count, terms[0].data.shape[1], dtype=dtype, device=system.device)
    for columns, z in _columns(terms):
        y[:, columns] = found.solve(z)[:count] if selected is None else (z.T @ selected).T
    return RidgeDirections(y, found.jitter, found.condition)


def _row_products(terms: Sequence[CountedRows]) -> Tensor:
    """Z Z^T (n, n) float64."""
    n = sum(len(each.data) for each in terms)
    total = torch.zeros(n, n, dtype=torch.float64, device=terms[0].data.device)
    for _, z in _columns(terms):
        for i in range(0, n, _BLOCK):
            total[i : i + _BLOCK, : i + _BLOCK].addmm_(z[i : i + _BLOCK], z[: i + _BLOCK].T)
    return mirror_lower(total)


def _columns(terms: Sequence[CountedRows]) -> Iterator[tuple[slice, Tensor]]:
    """Yield Z (n, k) float64, rows times their roots, for some columns after others."""
    size = max(1, ELEMENTS_AT_ONCE // max(1, sum(len(each.data) for each in terms)))
    for first in range(0, terms[0].data.shape[1], size):
        columns = slice(first, first + size)
        yield columns, torch.cat([each.wide(columns) for each in terms])
