"""Systems as wide as the text states of a large language model are solved with few matrices of their size."""

from collections.abc import Iterator
from weakref import ReferenceType, ref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from unconcept.linalg import cholesky, conditions, low_rank, moments, ridge
from unconcept.linalg.low_rank import numerical_rank
from unconcept.linalg.moments import SecondMoments
from unconcept.linalg.ridge import RowShifts, ridge_directions, ridge_map

WIDTH, LAMB = 160, 0.3


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch) -> None:
    """As if the width were thousands: what is computed part by part has many parts."""
    monkeypatch.setattr(cholesky, "_WHOLE", 16)
    monkeypatch.setattr(cholesky, "_BLOCK", 16)
    monkeypatch.setattr(cholesky, "_ROWS", 16)
    monkeypatch.setattr(conditions, "_NORM_ROWS", 16)
    monkeypatch.setattr(ridge, "_BLOCK", 16)
    monkeypatch.setattr(ridge, "_SOLVED_AT_ONCE", 8)
    monkeypatch.setattr(low_rank, "_CHEAP_SVD_ROWS", 4)
    monkeypatch.setattr(low_rank, "_QR_ROWS", 8)
    monkeypatch.setattr(moments, "COLUMN_BLOCK", 16)
    for module in (moments, ridge, low_rank):
        monkeypatch.setattr(module, "ELEMENTS_AT_ONCE", 8 * WIDTH)


class LargestSum(TorchDispatchMode):
    """The most bytes of tensors that were alive at once, of those that were made inside."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: list[ReferenceType[torch.Tensor]] = []
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        self.alive += [ref(each) for each in tree_leaves(made) if isinstance(each, torch.Tensor)]
        held = [(reference, each) for reference in self.alive if (each := reference()) is not None]
        self.alive = [reference for reference, _ in held]
        storages = {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for _, each in held}
        self.bytes = max(self.bytes, sum(storages.values()))
        return made

    @property
    def squares(self) -> float:
        """In matrices (d, d) of float64."""
        return self.bytes / (8 * WIDTH**2)


def rows(n: int, seed: int) -> torch.Tensor:
    return torch.randn(n, WIDTH, generator=torch.Generator().manual_seed(seed))


def pairs(n: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Pairs of rows, twenty at once."""
    return ((rows(20, seed), rows(20, seed + 1000)) for seed in range(0, n, 20))


def direct_map(n: int, kept: torch.Tensor) -> torch.Tensor:
    """T = (sum of (a - c)^T c) A^-1 as it is written."""
    c, a = (torch.cat(each).double() for each in zip(*pairs(n), strict=True))
    kept = kept.double()
    return (a - c).T @ c @ torch.linalg.inv(c.T @ c + kept.T @ kept + LAMB * torch.eye(WIDTH, dtype=torch.float64))


@pytest.mark.parametrize(("n", "kept", "squares"), [(60, 20, 1.1), (300, 40, 2.7), (300, 400, 2.7), (20, 400, 2.7)])
def test_a_map_of_any_number_of_rows_is_the_direct_one(n, kept, squares) -> None:
    """Few rows are kept; many are two sums, of the system and of the shifts, and in the end X and Y in float32."""
    preserve = rows(kept, 2000)
    with LargestSum() as watched:
        found = ridge_map(RowShifts.over(pairs(n), SecondMoments.of(preserve)), LAMB, torch.float32)
    assert found.x.dtype == found.y.dtype == torch.float32
    assert len(found.x) == min(n if kept == 20 else WIDTH, WIDTH)
    assert torch.allclose(found.x.double().T @ found.y.double(), direct_map(n, preserve), atol=1e-5)
    assert watched.squares < squares


@pytest.mark.parametrize(("count", "kept", "squares"), [(3, 140, 1.6), (40, 100, 1.8), (3, 600, 2.4)])
def test_directions_beside_any_number_of_rows_are_the_direct_ones(count, kept, squares) -> None:
    c, parts = rows(count, 0).double(), range(2000, 2000 + kept, 20)
    p = torch.cat([rows(20, seed) for seed in parts])
    with LargestSum() as watched:
        found = ridge_directions(
            c, SecondMoments.over((rows(20, seed) for seed in parts), WIDTH).weighted(0.5), 2.0, 1.0, LAMB
        )
    wide = p.double()
    system = 2 * c.T @ c + 0.5 * wide.T @ wide + LAMB * torch.eye(WIDTH, dtype=torch.float64)
    assert torch.allclose(found.y, 2 * c @ torch.linalg.inv(system), atol=1e-12)
    assert watched.squares < squares


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("n", [100, 160])
def test_the_rank_of_a_large_map_is_that_of_its_product(full, n) -> None:
    x, y = rows(n, 0), rows(n, 1)
    y[:30] = y[30:60]
    if full and n == WIDTH:
        x = torch.eye(WIDTH)
    with LargestSum() as watched:
        rank = numerical_rank(x.T, y)
    assert rank == torch.linalg.matrix_rank(x.double().T @ y.double(), rtol=1e-6) < n
    assert watched.squares < 3.3  # x and y, which are read in parts, are one of it.
