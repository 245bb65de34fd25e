"""The nearest change within a mask and off protected directions, against a projector of each row's own support."""

import pytest
import torch

from unconcept.linalg import masked_projection as within
from unconcept.linalg.masked_projection import mask_factors, project_within_masks
from unconcept.linalg.null_space import identity_projector

O, D, Q = 9, 20, 5


def problem(wide: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(1)
    change = torch.randn(O, D, dtype=torch.float64, generator=rng)
    mask = torch.rand(O, D, generator=rng) < 0.5
    # Nothing may move; nothing can; little; all.
    mask[0], mask[1], mask[2], mask[3] = False, torch.arange(D) < 3, torch.arange(D) < Q + 1, True
    basis = identity_projector(D).protecting(torch.randn(Q, D, dtype=torch.float64, generator=rng)).removed_basis
    return change.to(wide), mask, basis


@pytest.mark.parametrize("kept", [True, False], ids=["factors", "conjugate gradients"])
def test_is_the_nearest_such_change(kept) -> None:
    change, mask, basis = problem()
    found = project_within_masks(change, mask, basis, mask_factors([mask], [basis])[0] if kept else None)
    for row, free, own in zip(found, mask, change, strict=True):
        held = basis[free]
        wanted = own[free] - held @ torch.linalg.pinv(held) @ own[free]
        assert torch.allclose(row[free], wanted, atol=1e-8)
        assert not row[~free].any()


@pytest.mark.parametrize("gap", [1e-1, 1e-4, 1e-6, 1e-8, 0.0])
@pytest.mark.parametrize("kept", [True, False], ids=["factors", "conjugate gradients"])
def test_protects_where_the_mask_leaves_hardly_a_way_out(gap, kept) -> None:
    """A row whose support reads two protected directions almost as one: what gets through is below the rounding of
    float32.
    """
    change, mask, basis = problem()
    support = basis[: Q + 3].clone()
    support[:, 1] = support[:, 0] + gap * support[:, 1]
    basis = torch.linalg.qr(torch.cat([support, basis[Q + 3 :]]))[0]
    mask = torch.arange(D).expand(O, D) < Q + 3
    found = project_within_masks(change, mask, basis, mask_factors([mask], [basis])[0] if kept else None)
    assert (found @ basis).norm(dim=1).max() < torch.finfo(torch.float32).eps * change.norm(dim=1).max()
    assert (found.norm(dim=1) <= change.norm(dim=1)).all()


def test_twice_is_once() -> None:
    change, mask, basis = problem(torch.float32)
    (factor,) = mask_factors([mask], [basis])
    once = project_within_masks(change, mask, basis, factor)
    assert once.dtype == torch.float32
    assert torch.allclose(project_within_masks(once, mask, basis, factor), once, atol=1e-6)


def test_factors_are_kept_for_all_or_for_none(monkeypatch) -> None:
    _, mask, basis = problem()
    assert [None if kept is None else kept.shape for kept in mask_factors([mask, mask], [basis, None])] == [
        (O, Q, Q),
        None,
    ]
    monkeypatch.setattr(within, "_MOST_FACTOR_NUMBERS", 2 * O * Q * Q - 1)
    assert mask_factors([mask, mask], [basis, basis]) == [None, None]
