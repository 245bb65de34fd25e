"""Pairs of a given rank: nearest, of one size, safe to round."""

import pytest
import torch

from unconcept.linalg.low_rank import truncate_product, truncate_rank


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_all_directions_give_the_matrix_back() -> None:
    delta = drawn(12, 7)
    up, down = truncate_rank(delta)
    assert (up.shape, down.shape) == ((12, 7), (7, 7))
    assert torch.allclose(up @ down, delta, atol=1e-12)


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_what_is_left_out_is_the_tail_of_the_spectrum(rank) -> None:
    """Eckart and Young: the error is the norm of the singular values left out."""
    delta = drawn(9, 11)
    up, down = truncate_rank(delta, rank)
    assert up.shape[1] == rank
    assert torch.allclose((delta - up @ down).norm(), torch.linalg.svdvals(delta)[rank:].norm())


@pytest.mark.parametrize("n", [1, 4, 30])
def test_a_product_is_refactored_without_forming_it(n) -> None:
    up, down = drawn(12, n), drawn(n, 20, seed=1)
    a, b = truncate_product(up, down)
    assert a.shape[1] == min(n, 12)
    assert torch.allclose(a @ b, up @ down, atol=1e-10)
    assert torch.allclose(a.norm(dim=0), b.norm(dim=1))


def test_rank_is_found_and_a_zero_matrix_keeps_a_pair() -> None:
    up, down = drawn(10, 2), drawn(2, 10, seed=1)
    assert truncate_product(torch.cat([up, up], 1), torch.cat([down, down]))[0].shape[1] == 2
    a, b = truncate_rank(torch.zeros(5, 4))
    assert (a.shape, b.shape) == ((5, 1), (1, 4))
    assert not (a @ b).any()


def test_terms_that_cancel_are_safe_to_round() -> None:
    """Two huge terms with a small difference: rounded to half precision as they are, the sum is lost."""
    big, small = drawn(8, 1) * 100, drawn(8, 1, seed=1) * 0.1
    row = drawn(1, 8, seed=2)
    up, down = torch.cat([big + small, -big], 1), torch.cat([row, row])
    delta = up @ down
    kept = [factor.half().double() for factor in truncate_product(up, down)]
    assert (kept[0] @ kept[1] - delta).norm() < 2e-3 * delta.norm()
    assert (up.half().double() @ down.half().double() - delta).norm() > 0.05 * delta.norm()
