"""Rows that are fewer than the columns are kept, and what is solved with them is what their sums give."""

import pytest
import torch

from unconcept.linalg import cholesky
from unconcept.linalg.cholesky import stable_cholesky
from unconcept.linalg.low_rank import numerical_rank
from unconcept.linalg.moments import COLUMN_BLOCK, CountedRows, SecondMoments
from unconcept.linalg.ridge import RowShifts, ridge_directions, ridge_map


def rows(n: int, d: int, seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(n, d, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def kept_rows(moments: SecondMoments) -> torch.Tensor:
    return torch.cat([each.wide() for each in moments.row_terms])


def test_rows_are_kept_while_they_are_fewer_than_columns() -> None:
    parts = [rows(3, 9, seed, torch.float32) for seed in range(3)]
    few, many = SecondMoments.over(parts[:2], 9), SecondMoments.over(parts, 9)
    assert (few.rows_kept, few.count, many.rows_kept, many.count) == (6, 6, None, 9)
    assert torch.equal(kept_rows(few), torch.cat(parts[:2]).double())
    assert torch.allclose(many.gram, SecondMoments.of(torch.cat(parts)).gram, atol=1e-12)
    both = few + SecondMoments.of(parts[2])
    assert both.rows_kept is None
    assert torch.allclose(both.gram, many.gram, atol=1e-12)


@pytest.mark.parametrize("n", [3, 20])
def test_weighted_sums_are_those_of_dense_matrices_to_the_bit(n) -> None:
    """As w (u C^T C) + v P^T P was computed when every sum was a matrix of its own."""
    width = 2 * COLUMN_BLOCK + 5
    c, p = rows(n, width, 0), rows(width + 9, width, 1)
    one, other = SecondMoments.of(c), SecondMoments.of(p)
    total = one.weighted(0.3).weighted(7.0) + other.weighted(1e-4)
    assert torch.equal(total.gram, 7.0 * (0.3 * one.gram) + 1e-4 * other.gram)
    assert torch.equal(total.gram, total.gram.T)


def test_equal_neighbours_stand_once() -> None:
    own = rows(3, 40, 0)
    repeated = own[[0, 0, 0, 1, 2, 2]]
    found = SecondMoments.of(repeated)
    assert (found.rows_kept, found.count) == (3, 6)
    assert torch.allclose(found.gram, repeated.T @ repeated, atol=1e-12)
    assert torch.allclose(kept_rows(found).T @ kept_rows(found), repeated.T @ repeated, atol=1e-12)
    assert CountedRows.of(own).counts is None
    assert CountedRows.of(own[:0]).counts is None


def test_retained_rows_are_solved_with_in_their_own_space(monkeypatch) -> None:
    """Y against A^-1 C S written out, with no matrix d x d."""
    c, p, lamb = rows(3, 30, 0), rows(9, 30, 1)[[0, 0, 1, 2, 3, 4, 5, 6, 7, 8]], 0.1
    monkeypatch.setattr(SecondMoments, "gram", property(lambda self: pytest.fail("a sum was made")))
    found = ridge_directions(c, SecondMoments.of(p).weighted(0.3), 2.0, 0.5, lamb)
    a = 2 * c.T @ c + 0.15 * p.T @ p + lamb * torch.eye(30, dtype=torch.float64)
    assert torch.allclose(a @ found.y.T, 2 * c.T, atol=1e-12)


@pytest.mark.parametrize("n", [6, 60])
def test_a_map_of_few_rows_is_thin_and_the_same(n) -> None:
    """T = (sum of (a - c) c^T) A^-1, with some pairs repeated; few rows give X and Y of as many, many give d."""
    c, a, p, eye = rows(n, 30, 0), rows(n, 30, 1), rows(5, 30, 2), torch.eye(30, dtype=torch.float64)
    c, a = (torch.cat([each[:1], each[:1], each]) for each in (c, a))
    shifts, left = RowShifts.over([(c[:4], a[:4]), (c[4:], a[4:])], SecondMoments.of(p).weighted(0.3)), (a - c).T @ c
    assert torch.allclose(shifts.cross, left, atol=1e-12)
    found = ridge_map(shifts, 0.1)
    assert len(found.x) == min(n, 30)
    assert torch.allclose(found.x.T @ found.y @ (c.T @ c + 0.3 * p.T @ p + 0.1 * eye), left, atol=1e-10)


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_large_system_is_factorised_in_its_own_memory(overwrite, monkeypatch) -> None:
    c = rows(40, 37, 0)
    a = c.T @ c
    whole, given = stable_cholesky(a), a.clone()
    monkeypatch.setattr(cholesky, "_WHOLE", 8)
    monkeypatch.setattr(cholesky, "_BLOCK", 10)
    found = stable_cholesky(given, overwrite)
    assert (found.lower.data_ptr() == given.data_ptr()) == overwrite
    assert torch.equal(given, a) != overwrite
    assert torch.allclose(found.lower.tril(), whole.lower, atol=1e-12)
    assert found.condition == pytest.approx(whole.condition, rel=5)
    assert torch.allclose(a @ found.solve(c.T), c.T, atol=1e-10)
    assert torch.allclose(a @ whole.solve(c.T), c.T, atol=1e-10)


def test_a_large_singular_system_is_tried_again_with_jitter(monkeypatch) -> None:
    monkeypatch.setattr(cholesky, "_WHOLE", 8)
    monkeypatch.setattr(cholesky, "_BLOCK", 10)
    c = rows(5, 37, 0)
    found = stable_cholesky(c.T @ c, overwrite=True)
    assert found.jitter in cholesky.RELATIVE_JITTERS[1:]
    lower = found.lower.tril()
    assert torch.allclose(lower @ lower.T, c.T @ c, atol=1e-6)


def test_the_rank_of_few_long_rows_is_that_of_their_product() -> None:
    x, y = rows(300, 400, 0), rows(300, 400, 1)
    x[250:], y[:20] = x[:50], 0
    assert numerical_rank(x.T, y) == torch.linalg.matrix_rank(x.T @ y, rtol=1e-6)
