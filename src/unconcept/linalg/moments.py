"""Second moments C^T C of rows of text states, the form in which closed-form edits use a retain or prior set.

While there are fewer rows than columns, the rows are kept, and systems are solved in their space (`ridge.py`).
From then on a sum stands for them, d x d float64 for any number of rows. Moments of a union are the sum of its parts'.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor

from ..core.errors import UsageError, require
from ..core.output_folder import write_atomically

ELEMENTS_AT_ONCE = 2**24  # of rows in float64
ROW_CHUNK = 4096  # rows converted to float64 at once, of at most so many elements
# Columns of a block: only the blocks of C^T C on and below the diagonal are computed, which saves a third of the time.
COLUMN_BLOCK = 192


def are_few(rows: int, columns: int) -> bool:
    """Whether rows take less memory than the sum of their outer products, and a system less time in their space."""
    return rows < columns


def rows_at_once(width: int) -> int:
    """How many rows of a width are converted to float64 at once."""
    return max(1, min(ROW_CHUNK, ELEMENTS_AT_ONCE // max(1, width)))


def weigh_rows(rows: Tensor, weights: Sequence[float] | None, counts: Sequence[int] | None = None) -> Tensor:
    """Return rows (r, d) times the roots of weights, so that sums of their outer products are weighted; None: as given.

    `counts` are the rows of each weight, in order; None: equally many.
    """
    if weights is None:
        return rows
    each = torch.tensor(counts or [len(rows) // len(weights)] * len(weights))
    roots = torch.tensor(weights, dtype=torch.float64).sqrt().repeat_interleave(each)
    return rows * roots[:, None].to(rows)


@dataclass(frozen=True)
class CountedRows:
    """Rows (n, ..., d) of any floating dtype; of neighbours that were equal, one is kept."""

    data: Tensor
    counts: Tensor | None = None  # (n,) float64: how many each row stands for; None: one
    scales: tuple[float, ...] = ()  # their outer products are multiplied by each, in this order

    @classmethod
    def of(cls, rows: Tensor) -> "CountedRows":
        """Merge equal neighbours. Padding on the left of a text, which attends to nothing, has hundreds."""
        same = (rows[1:] == rows[:-1]).flatten(1).all(1)
        if not same.any():
            return cls(rows)
        first = torch.cat([same.new_zeros(1), same]).logical_not().nonzero().flatten()
        return cls(rows[first], first.diff(append=first.new_tensor([len(rows)])).double())

    def roots(self) -> Tensor:
        """(n, 1) float64: rows times these have the sum's outer products."""
        counts = torch.ones(len(self.data), dtype=torch.float64, device=self.data.device)
        return ((counts if self.counts is None else self.counts) * prod(self.scales)).sqrt()[:, None]

    def wide(self, columns: slice = slice(None)) -> Tensor:
        """Z (n, k) float64 with Z^T Z = the sum of their outer products, or some of its columns."""
        return self.data[:, columns].double() * self.roots()

    def block(self, first: int, stop: int) -> Tensor:
        """Rows `first` to `stop` of the outer products' sum up to column `stop`, float64."""
        total = torch.zeros(stop - first, stop, dtype=torch.float64, device=self.data.device)
        for wide, weighted in self.chunks(stop):
            total.addmm_(weighted.T[first:stop], wide)
        return _scaled(total, self.scales)

    def chunks(self, stop: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Rows up to a column, in float64, and the same times their counts."""
        size = rows_at_once(self.data.shape[1])
        counts = (None,) * len(self.data) if self.counts is None else self.counts.split(size)
        for rows, each in zip(self.data.split(size), counts, strict=False):
            wide = rows[:, :stop].double()
            yield wide, wide if each is None else wide * each[:, None]


@dataclass(frozen=True)
class _Sum:
    """A sum of outer products (d, d) float64."""

    data: Tensor
    scales: tuple[float, ...] = ()

    def block(self, first: int, stop: int) -> Tensor:
        return _scaled(self.data[first:stop, :stop], self.scales)


def _scaled(block: Tensor, scales: Sequence[float]) -> Tensor:
    for scale in scales:
        block = scale * block
    return block


@dataclass(frozen=True)
class SecondMoments:
    """The sum of outer products of `count` rows, as terms: all of them rows, or one sum."""

    terms: tuple[CountedRows | _Sum, ...]
    count: int = 0

    @classmethod
    def empty(cls, width: int, device: torch.device | str = "cpu") -> "SecondMoments":
        return cls((CountedRows(torch.zeros(0, width, dtype=torch.float64, device=device)),))

    @classmethod
    def of(cls, rows: Tensor) -> "SecondMoments":
        """Moments of rows (n, d) of any floating dtype."""
        return cls.over([rows], rows.shape[1], rows.device)

    @classmethod
    def over(cls, parts: Iterable[Tensor], width: int, device: torch.device | str = "cpu") -> "SecondMoments":
        """Moments of all rows (n, width) of several parts, which are read one after another."""
        held, gram, count = list[CountedRows](), None, 0
        for rows in parts:
            count += len(rows)
            held.append(CountedRows.of(rows))
            del rows  # Before the next ones are made.
            if gram is None and are_few(sum(len(each.data) for each in held), width):
                continue
            gram = torch.zeros(width, width, dtype=torch.float64, device=device) if gram is None else gram
            for part in held:
                add_outer_products(gram, part)
            held.clear()
        if gram is not None:
            return cls.of_sum(mirror_lower(gram), count)
        return cls(tuple(held), count) if held else cls.empty(width, device)

    @property
    def width(self) -> int:
        return self.terms[0].data.shape[1]

    @property
    def _device(self) -> torch.device:
        return self.terms[0].data.device

    @property
    def rows_kept(self) -> int | None:
        """How many rows are kept; None if their sum stands for them."""
        return None if any(isinstance(each, _Sum) for each in self.terms) else sum(len(e.data) for e in self.terms)

    @property
    def row_terms(self) -> tuple[CountedRows, ...]:
        """The terms that are rows: all of them, or none."""
        return tuple(each for each in self.terms if isinstance(each, CountedRows))

    @cached_property
    def gram(self) -> Tensor:
        """The sum (d, d), float64."""
        first = self.terms[0]
        return first.data if isinstance(first, _Sum) and not first.scales else self.total()

    def total(self) -> Tensor:
        """The sum (d, d), float64, as a new matrix."""
        return _total(self.terms)

    @classmethod
    def of_sum(cls, gram: Tensor, count: int) -> "SecondMoments":
        """Moments of `count` rows whose sum (d, d), float64, is given."""
        return cls((_Sum(gram),), count)

    def __add__(self, other: "SecondMoments") -> "SecondMoments":
        require(
            self.width == other.width,
            f"moments of width {self.width} and {other.width} cannot be added: give states of one model",
            UsageError,
        )
        terms, count = (*self.terms, *other.terms), self.count + other.count
        joined = SecondMoments(terms, count)
        kept = joined.rows_kept is not None and are_few(joined.rows_kept, self.width)
        return joined if kept else SecondMoments.of_sum(joined.total(), count)

    def weighted(self, weight: float) -> "SecondMoments":
        """Moments in which every row's outer product counts `weight` times; weight 0 gives empty moments."""
        require(0 <= weight < float("inf"), f"the weight of moments must be >= 0 and finite, got {weight}", UsageError)
        if weight == 1:
            return self
        if weight == 0:
            return SecondMoments.empty(self.width, self._device)
        terms = tuple(replace(each, scales=(*each.scales, weight)) for each in self.terms)
        return SecondMoments(terms, self.count)

    def save(self, path: Path) -> None:
        """Write a file that `load` reads. Raises `OutputError` if that is not possible."""
        write_atomically(path, to_bytes({"gram": self.gram.cpu(), "count": torch.tensor(self.count)}))

    @classmethod
    def load(cls, path: Path) -> "SecondMoments":
        """Load a file that `save` wrote; `UsageError` if it contains no moments."""
        try:
            tensors = load_file(path)
            return cls.of_sum(tensors["gram"], int(tensors["count"]))
        except (OSError, SafetensorError, KeyError) as error:
            raise UsageError(f"moments {path}: {error}; the file is missing or contains something else") from None


def add_outer_products(gram: Tensor, part: CountedRows) -> None:
    """Add unscaled rows' outer products to the blocks of a sum (d, d) on and below the diagonal."""
    width = len(gram)
    for wide, weighted in part.chunks(width):
        for i in range(0, width, COLUMN_BLOCK):
            gram[i : i + COLUMN_BLOCK, : i + COLUMN_BLOCK].addmm_(
                weighted.T[i : i + COLUMN_BLOCK], wide[:, : i + COLUMN_BLOCK]
            )


def mirror_lower(matrix: Tensor) -> Tensor:
    """Copy what is below the diagonal of a matrix (d, d) above it, in place."""
    for i in range(0, len(matrix), COLUMN_BLOCK):
        stop = i + COLUMN_BLOCK
        own = matrix[i:stop, i:stop]
        own.copy_(own.tril() + own.tril(-1).T)
        matrix[i:stop, stop:] = matrix[stop:, i:stop].T
    return matrix


def _total(terms: Sequence[CountedRows | _Sum]) -> Tensor:
    """The sum (d, d) of the terms, block by block, so that no other matrix of its size is made."""
    width = terms[0].data.shape[1]
    total = torch.zeros(width, width, dtype=torch.float64, device=terms[0].data.device)
    for i in range(0, width, COLUMN_BLOCK):
        stop = min(i + COLUMN_BLOCK, width)
        for each in terms:
            total[i:stop, :stop] += each.block(i, stop)
    return mirror_lower(total)
