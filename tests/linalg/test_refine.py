"""SPEED's refined retain set from scalars, against the set written out; centres against the definition."""

import pytest
import torch

from unconcept.linalg.kmeans import kmeans_centres
from unconcept.linalg.low_rank import reduce_rows
from unconcept.linalg.retain_refinement import RefinedRetainSet, augment_rows, strongly_changed_rows, weakest_direction


def rows(n: int, seed: int, d: int = 12) -> torch.Tensor:
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(20, 12), (12, 12), (5, 12)])
def test_weakest_direction_is_the_last_singular_vector(shape) -> None:
    w = rows(*shape[:1], 0, shape[1])
    last = torch.linalg.svd(w, full_matrices=False)[2][-1]
    found = weakest_direction(w)
    assert abs(float(found @ last)) == pytest.approx(1, abs=1e-12)
    assert torch.equal(found, weakest_direction(w))
    assert found[found.abs().argmax()] > 0


def test_augmented_set_from_scalars_is_the_set_itself() -> None:
    """Copies c + g v made one by one, kept where the edit moves them by more than their mean, and their mean second
    moment.
    """
    r, up, down, noise = rows(7, 1), rows(5, 2, 3), rows(3, 3), rows(7, 4, 10)
    v = rows(1, 5)[0]
    v /= v.norm()
    copies = (r[:, None] + noise[:, :, None] * v).flatten(0, 1)
    shift = (copies @ (up @ down).T).norm(dim=1)
    refined = torch.cat([r, copies[shift > shift.mean()]])
    found = augment_rows(r, up, down, v, noise)
    assert torch.allclose(found.moment(), refined.T @ refined / len(refined), atol=1e-12)
    basis, small = found.reduced()
    assert torch.allclose(basis @ small.moment() @ basis.T, found.moment(), atol=1e-12)
    assert torch.allclose(RefinedRetainSet.without_copies(r).moment(), r.T @ r / len(r), atol=1e-12)
    assert len(r) < len(refined) < 7 * 11


def test_moved_rows_are_those_above_the_mean() -> None:
    r, up, down = rows(50, 1), rows(5, 2, 3), rows(3, 3)
    shift = torch.stack([(up @ down @ row).norm() for row in r])
    assert torch.equal(strongly_changed_rows(r, up, down), shift > shift.mean())
    assert strongly_changed_rows(r[:1], up, down).all()
    assert strongly_changed_rows(torch.cat([r[:1]] * 3), up, down).all()


def test_centres_are_means_of_what_is_nearest_to_them() -> None:
    clouds = torch.cat([0.1 * rows(10, i) + 5 * rows(1, 10 + i) for i in range(3)])
    found = kmeans_centres(clouds, clouds[[0, 11, 25]], 1e-12)
    wanted = torch.stack([clouds[i : i + 10].mean(0) for i in (0, 10, 20)])
    assert torch.allclose(found, wanted, atol=1e-12)


def test_centres_stop_where_shifts_are_small() -> None:
    """One step with an endless tolerance: the means of the rows that are nearest to the start."""
    r = rows(30, 1)
    start = r[[0, 1, 2]]
    nearest = torch.stack([(row - start).square().sum(1).argmin() for row in r])
    assert torch.allclose(
        kmeans_centres(r, start, float("inf")), torch.stack([r[nearest == i].mean(0) for i in range(3)])
    )


def test_a_centre_nobody_is_near_stays() -> None:
    r = rows(9, 1)
    far = 1e3 * torch.ones(1, 12, dtype=torch.float64)
    assert torch.equal(kmeans_centres(r, torch.cat([r[:1], far]), 1e-4)[1:], far)


def test_thinned_is_the_same_map() -> None:
    x, y = rows(30, 1), rows(30, 2)
    small = reduce_rows(x, y)
    assert small[0].shape == small[1].shape == (12, 12)
    assert torch.allclose(small[0].T @ small[1], x.T @ y, atol=1e-12)
    assert torch.allclose(small[1].T @ small[1], y.T @ y, atol=1e-12)
    assert reduce_rows(x[:5], y[:5])[0].shape == (5, 12)
