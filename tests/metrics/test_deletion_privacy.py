"""Bounds of deletion privacy against exact Gaussians, the paper's adaptive requester, and its formulas."""

from math import exp, inf, log, sqrt

import pytest
import torch

from unconcept.core.errors import DataError, SettingsError
from unconcept.metrics.deletion_privacy import (
    NoisyDescent,
    adaptive_epsilon,
    attack_advantage,
    least_epsilon,
    renyi_epsilon,
)
from unconcept.training.forgetting.noisy_linear import NoisyLinear


def records(count=200, width=6, seed=0):
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(count, width, generator=rng, dtype=torch.float64)
    return x / x.norm(dim=1).max(), torch.sign(torch.randn(count, 1, generator=rng, dtype=torch.float64))


def chain(x, y, own, steps, mean, cov):
    """Mean and covariance of unclipped ridge steps, exactly."""
    h = x.T @ x / len(x) + own.lamb * torch.eye(x.shape[1], dtype=x.dtype)
    step, noise = torch.eye(len(h), dtype=x.dtype) - own.eta * h, 2 * own.eta * own.sigma**2
    for _ in range(steps):
        mean = step @ mean + own.eta * x.T @ y / len(x)
        cov = step @ cov @ step.T + noise * torch.eye(len(h), dtype=x.dtype)
    return mean, cov


def gaussian_divergence(order, p, q):
    """Renyi divergence of two Gaussians; inf where it is not defined."""
    (m, s), (n, t) = p, q
    mixed = order * t + (1 - order) * s
    if float(torch.linalg.eigvalsh(mixed).min()) <= 0:
        return inf
    gap = (m - n)[:, 0]
    logs = torch.logdet(mixed) - (1 - order) * torch.logdet(s) - order * torch.logdet(t)
    return float(order / 2 * gap @ torch.linalg.solve(mixed, gap) - logs / (2 * (order - 1)))


@pytest.mark.parametrize("order", [1.5, 2, 8])
def test_exact_chains_lie_within_the_bounds(order) -> None:
    """One record of ridge regression replaced; L is the longest gradient that either chain can meet."""
    x, y = records()
    own = NoisyLinear(clip=4.0, lamb=0.2, sigma=0.05, eta=0.5)
    other_x, other_y = x.clone(), y.clone()
    other_x[0], other_y[0] = -x[0], y[0]
    bounds = own.bounds(len(x))
    zero = torch.zeros(x.shape[1], 1, dtype=x.dtype), torch.zeros(x.shape[1], x.shape[1], dtype=x.dtype)
    learned = [chain(*data, own, 40, *zero) for data in ((x, y), (other_x, other_y))]
    assert 0 < gaussian_divergence(order, *learned) <= bounds.learning_divergence(order, 40)
    last = bounds.learning_divergence(order, 40)
    for steps in (1, 5, 20, 60):
        now = [chain(other_x, other_y, own, steps, *start) for start in learned]
        found, bound = gaussian_divergence(order, *now), bounds.divergence(order, bounds.drift(40), steps)
        assert 0 < found <= bound
        assert bound < last or steps == 1
        last = bound


def test_equality_where_every_step_contracts_alike() -> None:
    """One direction, and no curvature but the pull: two chains of the same variance and distance c^K z."""
    own, z = NoisyDescent(50, 1.0, 1.0, 0.3, 0.5, 0.1), 0.7
    for steps in (1, 4, 30):
        variance = sum(2 * own.eta * own.sigma**2 * own.contraction ** (2 * k) for k in range(steps))
        exact = 3 * (own.contraction**steps * z) ** 2 / (2 * variance)
        assert own.divergence(3, z, steps) == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize(("eta", "lamb"), [(0.9, 0.05), (0.1, 0.5), (0.5, 1.0)])
def test_the_noise_can_draw_out_what_a_record_adds_at_every_step(eta, lamb) -> None:
    """The shifts behind `learning_divergence` are never negative and end at 0."""
    own, steps = NoisyDescent(100, 1.0, 1.0, lamb, eta, 0.1), 25
    c, d = own.contraction, 2 * eta / 100
    total = own.drift(steps) / sum(c ** (2 * k) for k in range(steps))
    z = cost = 0.0
    for k in range(steps):
        a = total * c ** (steps - 1 - k)
        z, cost = c * z + d - a, cost + a**2
        assert z >= -1e-12
    assert z == pytest.approx(0.0, abs=1e-12)
    assert own.learning_divergence(2, steps) == pytest.approx(2 * cost / (2 * 2 * eta * own.sigma**2), rel=1e-9)


def test_where_no_bound_holds_none_is_given() -> None:
    with pytest.raises(
        SettingsError, match=r"eta must be above 0 and at most 2 / \(beta \+ 2 lamb\) = 1\.82, got 1\.9"
    ):
        NoisyLinear(eta=1.9).bounds(10)
    with pytest.raises(SettingsError, match="lamb must be > 0, got 0"):
        NoisyLinear(lamb=0.0).bounds(10)
    with pytest.raises(DataError, match="at most 1 long, got 2"):
        NoisyLinear().learn(2 * torch.eye(3), torch.ones(3, 1), 1, torch.Generator())
    assert NoisyLinear(sigma=0.0).bounds(10).deletion_epsilon(10, 10, 1e-5) == inf


def test_without_noise_it_is_gradient_descent() -> None:
    x, y = records()
    own = NoisyLinear(clip=1e6, lamb=0.2, sigma=0.0, eta=0.5)
    found = own.learn(x, y, 7, torch.Generator())
    theta = torch.zeros(x.shape[1], 1, dtype=x.dtype, requires_grad=True)
    for _ in range(7):
        loss = ((x @ theta - y).square().sum(1) / 2).mean() + 0.1 * theta.square().sum()
        (gradient,) = torch.autograd.grad(loss, theta)
        theta = (theta - 0.5 * gradient).detach().requires_grad_()
    assert torch.allclose(found, theta, atol=1e-12)


def test_a_record_is_clipped_by_itself() -> None:
    """Three answers: each record's gradient, the slow way, is at most L long."""
    x, _ = records(20, 4)
    y = 9 * torch.randn(20, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    own = NoisyLinear(clip=0.3, lamb=0.5, sigma=0.0, eta=0.25)
    theta = torch.randn(4, 3, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    total = 0.5 * theta
    for row, answer in zip(x, y, strict=True):
        gradient = torch.outer(row, row @ theta - answer)
        total = total + gradient * min(1.0, 0.3 / float(gradient.norm())) / 20
    assert torch.allclose(own.go_on(theta, x, y, 1, torch.Generator()), theta - 0.25 * total, atol=1e-12)


def test_the_spread_of_many_chains() -> None:
    """2 eta sigma^2 / (1 - (1 - eta h)^2) in each direction; 2000 chains at once, as answers of one model."""
    x = torch.tensor([[1.0, 0.0], [0.0, 0.5]], dtype=torch.float64)
    own = NoisyLinear(clip=1e9, lamb=0.1, sigma=0.3, eta=0.5)
    found = own.learn(x, torch.zeros(2, 2000, dtype=torch.float64), 60, torch.Generator().manual_seed(0))
    for row, h in zip(found, (0.5 + 0.1, 0.125 + 0.1), strict=True):
        expected = 2 * 0.5 * 0.3**2 / (1 - (1 - 0.5 * h) ** 2)
        assert float(row.square().mean()) == pytest.approx(expected, rel=0.1)


def adaptive_success(noise, trials=4000):
    """The paper's toy: whoever sees the sum has all of one sign deleted; then the rest tells what was there before."""
    rng = torch.Generator().manual_seed(0)
    right = 0
    for trial in range(trials):
        data = [-2, -1 if trial % 2 else 1, 2]
        release = sum(data) + noise * float(torch.randn((), generator=rng))
        left = sum(own for own in data if (own >= 0 if release < 0 else own < 0))
        right += (left > 0) == bool(trial % 2)
    return right / trials


def test_an_adaptive_requester_learns_from_exact_retraining_what_was_deleted() -> None:
    """The deleted record is -1 or 1: retraining exactly on what stays gives it away, unless the release was noisy."""
    assert adaptive_success(0.0) == 1.0
    epsilon, delta = 0.5, 1e-2
    noise = 2 * sqrt(2 * log(1.25 / delta)) / epsilon  # of the Gaussian mechanism; -1 for 1 moves the sum by 2
    assert 0.5 < adaptive_success(noise) <= 0.5 + attack_advantage(epsilon, delta) / 2


def test_the_papers_formulas() -> None:
    assert attack_advantage(0.0, 0.0) == 0.0
    assert adaptive_epsilon(0.3, 0.7, 1e-5, 0) == (0.3, 2e-5)
    grown, delta = adaptive_epsilon(0.3, 0.7, 1e-5, 3)
    assert grown == pytest.approx(0.3 + 3 * 0.7 * (exp(0.7) - 1) + 0.7 * sqrt(6 * log(1e5)))
    assert delta == pytest.approx(5e-5)
    assert least_epsilon(0.5, 0.4, 0.01) == pytest.approx(log(1.18))
    assert renyi_epsilon({2.0: 1.0, 11.0: 2.0}, 1e-5) == pytest.approx(2.0 + log(1e5) / 10)


def test_more_steps_forget_more() -> None:
    bounds = NoisyLinear(sigma=0.05).bounds(1000)
    found = [bounds.deletion_epsilon(300, steps, 1e-5) for steps in (1, 10, 100, 1000)]
    assert found == sorted(found, reverse=True)
    assert found[-1] < bounds.learning_epsilon(300, 1e-5)
