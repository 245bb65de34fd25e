"""Null-space projectors and the ridge edit inside one, against the printed formulas."""

import pytest
import torch

from unconcept.linalg.null_space import (
    NullSpaceProjector,
    null_projector,
    projected_directions,
    soft_projected_directions,
)
from unconcept.linalg.retain_refinement import RefinedRetainSet
from unconcept.linalg.ridge import ridge_directions

D = 16


def rows(n: int, seed: int, d: int = D) -> torch.Tensor:
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def matrix(projector: NullSpaceProjector, d: int = D) -> torch.Tensor:
    return projector(torch.eye(d, dtype=torch.float64))


@pytest.mark.parametrize("n", [3, 15, 16, 40])
@pytest.mark.parametrize("threshold", [1e-8, 0.5, 1.0])
def test_is_the_span_of_small_eigenvalues(n, threshold) -> None:
    """P = U U^T over the singular vectors of the second moment below the threshold; both routes."""
    r = rows(n, 0)
    u, s, _ = torch.linalg.svd(r.T @ r / n)
    found = null_projector(RefinedRetainSet.without_copies(r), threshold)
    p = matrix(found)
    assert torch.allclose(p, u[:, s < threshold] @ u[:, s < threshold].T, atol=1e-10)
    assert torch.allclose(p @ p, p, atol=1e-10)
    assert torch.allclose(p, p.T, atol=1e-10)
    assert found.rank == int((s < threshold).sum())
    below, above = s[s < threshold], s[s >= threshold]
    if len(below) and len(above) and below[0] > 1e-12:
        assert found.gap == pytest.approx(float(above[-1] / below[0]))


def test_an_exact_null_space_takes_nothing_from_its_rows() -> None:
    r = rows(5, 1)
    found = null_projector(RefinedRetainSet.without_copies(r), 1e-8)
    assert found.rank == D - 5
    assert found(r).abs().max() < 1e-10
    assert found.gap > 1e10
    assert null_projector(RefinedRetainSet.without_copies(1e-3 * r), 0.1).rank == D


def test_holding_is_the_null_space_of_both() -> None:
    r, held = rows(5, 1), rows(3, 2)
    both = null_projector(RefinedRetainSet.without_copies(torch.cat([r, held])), 1e-10)
    assert torch.allclose(
        matrix(null_projector(RefinedRetainSet.without_copies(r), 1e-8).protecting(held)), matrix(both), atol=1e-10
    )


def test_holding_cuts_what_is_held_already() -> None:
    """Rows in the retained span, twice the same, and almost in the span: rank falls by one, and P stays a projector."""
    r, extra = rows(5, 1), rows(1, 2)
    held = torch.cat([r[:1] + r[1:2], extra, extra, r[2:3] + 1e-7 * extra])
    found = null_projector(RefinedRetainSet.without_copies(r), 1e-8).protecting(held)
    p = matrix(found)
    assert found.rank == D - 6
    assert torch.allclose(p @ p, p, atol=1e-12)
    assert found(held).abs().max() < 1e-8


def test_three_forms_of_the_projected_edit_are_one() -> None:
    """The printed d x d formula, the form among texts, and the form in coordinates of the null space (closed-form core
    2).
    """
    c, change, projector, ridge = (
        rows(4, 3),
        rows(4, 4),
        null_projector(RefinedRetainSet.without_copies(rows(6, 5)), 1e-8),
        0.7,
    )
    p, eye = matrix(projector), torch.eye(D, dtype=torch.float64)
    printed = change.T @ c @ p @ torch.linalg.inv(c.T @ c @ p + ridge * eye)
    u = torch.linalg.svd(p)[0][:, : projector.rank]
    z = c @ u
    reduced = change.T @ z @ torch.linalg.inv(z.T @ z + ridge * torch.eye(projector.rank, dtype=torch.float64)) @ u.T
    ours = change.T @ projected_directions(c, projector, ridge).y
    assert torch.allclose(ours, printed, atol=1e-12)
    assert torch.allclose(ours, reduced, atol=1e-12)
    assert torch.allclose(ours @ p, ours, atol=1e-12)


@pytest.mark.parametrize("softness", [1e-3, 0.5])
def test_soft_equalities_are_the_printed_formula(softness) -> None:
    c, held, ridge, eye = rows(4, 3), rows(3, 6), 0.7, torch.eye(D, dtype=torch.float64)
    projector = null_projector(RefinedRetainSet.without_copies(rows(6, 5)), 1e-8)
    p, c2 = matrix(projector), held.T
    m = torch.linalg.inv(c.T @ c @ p + ridge * eye)
    printed = (
        c
        @ p
        @ (eye - m @ c2 @ torch.linalg.inv(c2.T @ p @ m @ c2 + softness * torch.eye(3, dtype=torch.float64)) @ c2.T @ p)
        @ m
    )
    assert torch.allclose(soft_projected_directions(c, held, projector, ridge, softness).y, printed, atol=1e-12)


def test_soft_equalities_become_hard_ones() -> None:
    """The lagrangian form with no regulariser is the shrunk projector's."""
    c, held, projector = rows(4, 3), rows(3, 6), null_projector(RefinedRetainSet.without_copies(rows(6, 5)), 1e-8)
    hard = projected_directions(c, projector.protecting(held), 0.7).y
    assert torch.allclose(soft_projected_directions(c, held, projector, 0.7, 0.0).y, hard, atol=1e-10)
    assert (hard @ held.T).abs().max() < 1e-12


def test_no_feasible_step_lowers_the_objective() -> None:
    c, held, ridge = rows(4, 3), rows(3, 6), 0.7
    w, wanted = rows(5, 7), rows(5, 8, 4)
    projector = null_projector(RefinedRetainSet.without_copies(rows(6, 5)), 1e-8).protecting(held)
    delta = wanted @ projected_directions(c, projector, ridge).y

    def objective(change: torch.Tensor) -> torch.Tensor:
        return ((w + change) @ c.T - (w @ c.T + wanted)).square().sum() + ridge * change.square().sum()

    for seed in range(20):
        step = 1e-3 * projector(rows(5, 20 + seed))
        assert objective(delta + step) > objective(delta)


def test_nothing_retained_and_nothing_held_is_the_plain_ridge() -> None:
    """UCE with lam = ridge and unit weights."""
    c, free = rows(4, 3), NullSpaceProjector(torch.empty(D, 0, dtype=torch.float64))
    assert torch.allclose(projected_directions(c, free, 0.7).y, ridge_directions(c, c[:0], 1.0, 1.0, 0.7).y, atol=1e-12)


def test_a_text_in_the_retained_span_has_no_direction_left() -> None:
    r = rows(10, 9, 8)
    projector = null_projector(RefinedRetainSet.without_copies(r), 1e-8)
    assert projector.rank == 0
    assert projected_directions(r[:1], projector, 0.7).y.abs().max() < 1e-10
