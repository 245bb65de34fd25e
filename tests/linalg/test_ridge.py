"""One solver, two forms, one answer."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unconcept.core.errors import NumericsError, SettingsError, UnconceptError
from unconcept.linalg import cholesky, ridge
from unconcept.linalg.cholesky import stable_cholesky
from unconcept.linalg.moments import SecondMoments
from unconcept.linalg.ridge import RowShifts, ridge_directions, ridge_map, ridge_system, ridge_text_map


def rows(n: int, d: int, seed: int) -> torch.Tensor:
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@given(
    st.integers(1, 6),
    st.integers(0, 6),
    st.floats(0.05, 5),
    st.floats(0.05, 5),
    st.floats(0.01, 10),
    st.integers(0, 99),
)
@settings(deadline=None)
def test_both_forms_agree(n, m, erase, preserve, lamb, seed) -> None:
    c, p = rows(n, 16, seed), rows(m, 16, seed + 100)
    small, large = (
        ridge_directions(c, p, erase, preserve, lamb).y,
        ridge._among_dimensions(c, p, erase, preserve, lamb).y,
    )
    assert torch.allclose(small, large, atol=1e-10)


def test_solves_the_normal_equations() -> None:
    c, p = rows(3, 8, 0), rows(4, 8, 1)
    a = 2 * c.T @ c + 0.5 * p.T @ p + 0.1 * torch.eye(8, dtype=torch.float64)
    y = ridge_directions(c, p, 2.0, 0.5, 0.1).y
    assert torch.allclose(a @ y.T, 2 * c.T, atol=1e-10)


def test_joint_is_sequential_with_a_running_sum() -> None:
    """W_t = W_{t-1} + (V*_t - W_{t-1} C_t) C_t^T A_t^-1 with A running is the joint solve (closed-form core 2)."""
    w, c, a = rows(5, 8, 2), rows(3, 8, 3), rows(3, 8, 4)
    joint = w + (w @ (a - c).T) @ ridge_directions(c, rows(0, 8, 0), 1.0, 1.0, 0.5).y
    total, step = 0.5 * torch.eye(8, dtype=torch.float64), w.clone()
    for one, anchor in zip(c, a, strict=True):
        total = total + torch.outer(one, one)
        step = step + torch.outer(w @ anchor - step @ one, torch.linalg.solve(total, one))
    assert torch.allclose(joint, step, atol=1e-10)


def test_singular_systems_are_named() -> None:
    with pytest.raises(SettingsError, match="lamb = 0 with 3 texts in 8 dimensions"):
        ridge_directions(rows(2, 8, 0), rows(1, 8, 1), 1.0, 1.0, 0.0)
    with pytest.raises(NumericsError, match="singular even with jitter"):
        stable_cholesky(-torch.eye(3, dtype=torch.float64))
    with pytest.raises(NumericsError, match="NaN or infinity"):
        stable_cholesky(torch.full((2, 2), float("nan"), dtype=torch.float64))


def test_jitter_is_reported() -> None:
    c = rows(1, 6, 0)
    found = stable_cholesky(c.T @ c)
    assert found.jitter in cholesky.RELATIVE_JITTERS
    assert torch.isfinite(found.lower).all()


def test_moments_stand_for_the_retained_rows() -> None:
    c, p = rows(3, 8, 0), rows(20, 8, 1)
    assert torch.allclose(
        ridge_directions(c, p, 2.0, 0.3, 0.1).y, ridge_directions(c, SecondMoments.of(p), 2.0, 0.3, 0.1).y, atol=1e-12
    )
    nothing = SecondMoments.empty(8)
    assert torch.allclose(
        ridge_directions(c, nothing, 2.0, 0.3, 0.1).y, ridge_directions(c, rows(0, 8, 0), 2.0, 0.3, 0.1).y, atol=1e-12
    )


def test_sums_over_rows_stand_for_the_rows() -> None:
    """T = (A - C)^T Y with the Y of the rows themselves."""
    c, a, p = rows(30, 8, 0), rows(30, 8, 1), rows(20, 8, 2)
    shifts = RowShifts.over([(c[:11], a[:11]), (c[11:], a[11:])], SecondMoments.of(p).weighted(0.3))
    found = ridge_map(shifts, 0.1)
    assert torch.allclose(found.x.T @ found.y, (a - c).T @ ridge_directions(c, p, 1.0, 0.3, 0.1).y, atol=1e-12)


def test_other_reference_weights_add_a_term() -> None:
    """Against the problem itself: the retained rows keep W0 p, everything else is as with W."""
    c, p, w, w0, v = rows(5, 8, 0), rows(20, 8, 1), rows(4, 8, 2), rows(4, 8, 3), rows(5, 4, 4)
    system = ridge_system(SecondMoments.of(c), SecondMoments.of(p).weighted(0.3), 0.1)
    ours = w + system.solve((v - c @ w.T).T @ c) + system.preserved_correction(w0 - w)
    left = v.T @ c + 0.3 * w0 @ p.T @ p + 0.1 * w
    assert torch.allclose(
        ours, left @ torch.linalg.inv(c.T @ c + 0.3 * p.T @ p + 0.1 * torch.eye(8, dtype=torch.float64)), atol=1e-10
    )


def test_rows_that_do_not_span_are_singular_without_lamb() -> None:
    few = rows(3, 8, 0)
    with pytest.raises(SettingsError, match="do not span the 8 dimensions"):
        ridge_system(SecondMoments.of(few.repeat(5, 1)), SecondMoments.empty(8), 0.0)
    with pytest.raises(SettingsError, match="lamb = 0 with 3 texts"):
        ridge_system(SecondMoments.of(few), SecondMoments.of(rows(9, 8, 1)).weighted(0.0), 0.0)
    with pytest.raises(UnconceptError, match="finite"):
        ridge_system(SecondMoments.of(few), SecondMoments.empty(8), float("nan"))


@pytest.mark.parametrize("n", [1, 5, 8, 9, 30])
@pytest.mark.parametrize("kept", ["rows", "moments", "nothing"])
def test_text_map_is_one_solution_in_both_shapes(n, kept) -> None:
    c, a, p = rows(n, 8, 0), rows(n, 8, 1), rows(0 if kept == "nothing" else 4, 8, 2)
    found = ridge_text_map(c, a, SecondMoments.of(p) if kept == "moments" else p, 2.0, 0.5, 0.1)
    assert len(found.x) == min(n, 8)
    system = 2 * c.T @ c + 0.5 * p.T @ p + 0.1 * torch.eye(8, dtype=torch.float64)
    assert torch.allclose(found.x.T @ found.y @ system, 2 * (a - c).T @ c, atol=1e-9)
