"""The optimum is where the gradient is zero, whatever found it."""

import pytest
import torch

from unconcept.core.errors import NumericsError, SettingsError
from unconcept.linalg.logistic import fit_logistic


def problem(n: int = 60, d: int = 5, classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(n, d, generator=rng, dtype=torch.float64)
    noise = torch.randn(n, classes, generator=rng, dtype=torch.float64)
    return x, (x[:, :classes] + noise).argmax(1)


@pytest.mark.parametrize("l2", [0.01, 1.0, 100.0])
def test_the_gradient_vanishes(l2) -> None:
    """Autograd on the loss as scikit-learn writes it: summed cross-entropy and l2 / 2 of the squared weights."""
    x, y = problem()
    weight, bias = (t.clone().requires_grad_() for t in fit_logistic(x, y, 3, l2))
    loss = torch.nn.functional.cross_entropy(x @ weight.T + bias, y, reduction="sum") + l2 / 2 * weight.square().sum()
    loss.backward()
    assert weight.grad.abs().max() < 1e-5
    assert bias.grad.abs().max() < 1e-5


def test_more_features_than_rows() -> None:
    x, y = problem(n=20, d=200)
    weight, bias = fit_logistic(x, y, 3)
    assert ((x @ weight.T + bias).argmax(1) == y).all()


def test_a_heavy_penalty_leaves_the_shares_of_the_classes() -> None:
    x, y = problem()
    weight, bias = fit_logistic(x, y, 3, 1e9)
    assert weight.abs().max() < 1e-6
    assert torch.allclose(bias.softmax(0), y.bincount().double() / len(y), atol=1e-6)


def test_refusals() -> None:
    x, y = problem()
    with pytest.raises(SettingsError, match="l2 must be > 0"):
        fit_logistic(x, y, 3, 0.0)
    with pytest.raises(NumericsError, match="NaN"):
        fit_logistic(x * float("nan"), y, 3)
