"""Multinomial logistic regression with an L2 penalty: convex, so one short L-BFGS run finds the optimum."""

import torch
from torch import Tensor

from ..core.errors import NumericsError, require

_GRADIENT_TOLERANCE = 1e-7  # of the gradient of a loss that is a mean over rows
_MOST_STEPS = 2000


def fit_logistic(x: Tensor, labels: Tensor, classes: int, l2: float = 1.0) -> tuple[Tensor, Tensor]:
    """Fit weight (classes, d) and bias (classes,), float64, that minimise sum of cross-entropies + l2 / 2 |weight|^2.

    x (n, d) has a row for each sample, labels (n,) are in 0..classes-1. `l2` is the inverse of scikit-learn's C; the
    bias is not penalised.
    """
    require(l2 > 0, f"l2 must be > 0, got {l2}: separable classes have no finite optimum without it")
    x = x.double()
    require(
        bool(torch.isfinite(x).all()),
        "features contain NaN or infinity: check the extractor and the pictures",
        NumericsError,
    )
    n, d = x.shape
    wanted = torch.nn.functional.one_hot(labels, classes).to(x)
    weight, bias = torch.zeros(classes, d).to(x), torch.zeros(classes).to(x)
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=_MOST_STEPS,
        tolerance_grad=_GRADIENT_TOLERANCE,
        tolerance_change=0,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        log_probabilities = (x @ weight.T + bias).log_softmax(1)
        gap = log_probabilities.exp() - wanted
        weight.grad, bias.grad = (gap.T @ x + l2 * weight) / n, gap.mean(0)
        return (l2 / 2 * weight.square().sum() - (wanted * log_probabilities).sum()) / n

    with torch.no_grad():
        optimizer.step(loss)
    return weight, bias
