"""RECE's derived embedding against the stacked least squares, and its exact properties."""

import pytest
import torch

from unconcept.core.errors import SettingsError
from unconcept.linalg.derive import derive_map, derive_map_through


def maps(layers: int = 3, width: int = 6, seed: int = 0) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return {str(i): torch.randn(5 + i, width, generator=rng, dtype=torch.float64) for i in range(layers)}


def change(w: dict[str, torch.Tensor], seed: int = 1) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return {n: t + 0.3 * torch.randn(t.shape, generator=rng, dtype=t.dtype) for n, t in w.items()}


def objective(edited, reference, c, found, lamb):
    return sum((edited[n] @ found - reference[n] @ c).square().sum() for n in edited) + lamb * found.square().sum()


@pytest.mark.parametrize("lamb", [1e-3, 0.1, 10.0])
def test_is_the_stacked_least_squares(lamb) -> None:
    """All W' in one tall matrix with sqrt(lam) I below, all W c on the right with zeros below."""
    reference = maps()
    edited = change(reference)
    found = derive_map(edited, reference, lamb)
    tall = torch.cat([*edited.values(), lamb**0.5 * torch.eye(6, dtype=torch.float64)])
    right = torch.cat([*reference.values(), torch.zeros(6, 6, dtype=torch.float64)])
    assert torch.allclose(found.matrix, torch.linalg.lstsq(tall, right).solution, atol=1e-10)
    assert found.jitter == 0


def test_the_gradient_is_zero_there_and_the_objective_lower() -> None:
    reference, lamb = maps(), 0.1
    edited = change(reference)
    c = torch.randn(6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    found = derive_map(edited, reference, lamb)(c[None])[0].requires_grad_()
    value = objective(edited, reference, c, found, lamb)
    assert torch.autograd.grad(value, found)[0].abs().max() < 1e-12
    assert value < objective(edited, reference, c, c, lamb)


def test_nothing_changed_gives_the_embedding_back() -> None:
    """On the row space of the stacked maps: here one map of width 6 with 3 rows."""
    w = {"a": torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))}
    c = w["a"].T @ torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    assert torch.allclose(derive_map(w, w, 1e-8)(c[None])[0], c, atol=1e-6)
    assert torch.allclose(derive_map(maps(), maps(), 0.0).matrix, torch.eye(6, dtype=torch.float64), atol=1e-10)


def test_a_stiff_ridge_shrinks_to_nothing() -> None:
    reference = maps()
    assert derive_map(change(reference), reference, 1e12).matrix.abs().max() < 1e-9


def test_rows_keep_their_dtype_and_shape() -> None:
    reference = {n: t.float() for n, t in maps().items()}
    found = derive_map(change(reference), reference, 0.1)
    rows = torch.randn(2, 4, 6)
    assert found(rows).dtype == torch.float32
    assert torch.allclose(found(rows)[1, 2], found(rows[1, 2:3])[0], atol=1e-6)


def test_what_is_refused() -> None:
    with pytest.raises(SettingsError, match="lamb"):
        derive_map(maps(), maps(), -1.0)
    with pytest.raises(SettingsError, match="different names"):
        derive_map(maps(2), maps(3), 0.1)


@pytest.mark.parametrize("lamb", [1e-3, 0.1])
def test_one_map_for_all_needs_their_gram_alone(lamb) -> None:
    """W'_l = W_l B: the same R from sum_l W_l^T W_l."""
    reference = maps()
    b = torch.eye(6, dtype=torch.float64) + 0.3 * torch.randn(
        6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(5)
    )
    gram = sum(w.T @ w for w in reference.values())
    wanted = derive_map({n: w @ b for n, w in reference.items()}, reference, lamb).matrix
    assert torch.allclose(derive_map_through(gram, b, lamb).matrix, wanted, atol=1e-10)
