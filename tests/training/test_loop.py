"""The loop against its rules written out; what it refuses; that it can stop and go on."""

import pytest
import torch

from unconcept.core.errors import NumericsError, SettingsError
from unconcept.training import Descent, loss_gradient, minimise

AIM = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)


def start() -> torch.Tensor:
    return torch.zeros(3, dtype=torch.float64, requires_grad=True)


def noisy(x):
    return lambda step, rng: (x - AIM + 0.1 * torch.randn(3, generator=rng, dtype=torch.float64)).square().sum()


def test_gradient_knows_the_named_tensors_alone() -> None:
    x, other = start(), torch.ones(3, dtype=torch.float64, requires_grad=True)
    first, second = loss_gradient((x * other - AIM).square().sum(), [x, start()])
    assert torch.equal(first, -2 * AIM)
    assert torch.equal(second, torch.zeros(3, dtype=torch.float64))
    assert x.grad is None
    assert other.grad is None


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_sgd_is_the_rule_written_out(weight_decay) -> None:
    x, y = start(), torch.zeros(3, dtype=torch.float64)
    minimise(lambda step, rng: (x - AIM).square().sum(), [x], 5, 0.1, "sgd", weight_decay=weight_decay)
    for _ in range(5):
        y = y - 0.1 * (2 * (y - AIM) + weight_decay * y)
    assert torch.allclose(x.detach(), y, atol=1e-12)


def test_adamw_decays_the_tensor_and_adam_the_gradient() -> None:
    """The first step of Adam is lr * sign(gradient); AdamW multiplies by 1 - lr * decay besides."""
    for optimizer, wanted in (("adam", 2.0 - 0.1), ("adamw", 2.0 * (1 - 0.1 * 0.5) - 0.1)):
        x = torch.full((3,), 2.0, dtype=torch.float64, requires_grad=True)
        minimise(lambda step, rng, x=x: x.sum(), [x], 1, 0.1, optimizer, weight_decay=0.5)
        assert torch.allclose(x.detach(), torch.full_like(x, wanted), atol=1e-6)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_gradient_may_lie_in_memory_in_another_order(optimizer) -> None:
    """A transposed gradient of a matrix moves each entry as that of a vector does."""
    rates = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).T
    x, y = (torch.zeros(shape, dtype=torch.float64, requires_grad=True) for shape in ((4, 3), 12))
    assert not loss_gradient((x * rates).sum(), [x])[0].is_contiguous()
    for tensor, derivative in ((x, rates), (y, rates.flatten())):
        minimise(lambda step, rng, x=tensor, c=derivative: (x * c).sum(), [tensor], 3, 0.1, optimizer)
    assert torch.equal(x.detach().flatten(), y.detach())


def test_adams_moments_are_those_asked_for() -> None:
    x, betas, eps = start(), (0.5, 0.75), 1e-2
    Descent([x], 0.1, betas=betas, eps=eps).run(lambda step, rng: (x - AIM).square().sum(), 4)
    y, m, v = (torch.zeros(3, dtype=torch.float64) for _ in range(3))
    for step in range(1, 5):
        g = 2 * (y - AIM)
        m, v = betas[0] * m + (1 - betas[0]) * g, betas[1] * v + (1 - betas[1]) * g.square()
        y = y - 0.1 * (m / (1 - betas[0] ** step)) / ((v / (1 - betas[1] ** step)).sqrt() + eps)
    assert torch.allclose(x.detach(), y, atol=1e-12)
    for wrong in ({"betas": (0.9, 1.0)}, {"eps": 0.0}):
        with pytest.raises(SettingsError, match="betas must be"):
            Descent([start()], 0.1, **wrong)


def test_finds_the_minimum_and_leaves_no_gradient() -> None:
    x = start()
    losses = minimise(lambda step, rng: (x - AIM).square().sum(), [x], 400, 0.05)
    assert torch.allclose(x.detach(), AIM, atol=1e-3)
    assert losses[-1] < 1e-5 < losses[0] == float(AIM.square().sum())
    assert x.grad is None


def test_stopping_and_going_on_changes_nothing() -> None:
    whole, halves = start(), start()
    losses = minimise(noisy(whole), [whole], 10, 0.1, seed=3)
    descent = Descent([halves], 0.1, seed=3)
    assert descent.run(noisy(halves), 4) + descent.run(noisy(halves), 6) == losses
    assert torch.equal(whole, halves)
    assert descent.done == 10


def test_another_seed_is_another_way() -> None:
    one, two = start(), start()
    assert minimise(noisy(one), [one], 3, 0.1, seed=0) != minimise(noisy(two), [two], 3, 0.1, seed=1)


def test_parts_are_averaged() -> None:
    x, y = start(), start()
    scales = iter([1.0, 3.0])
    Descent([x], 0.1, "sgd").run(lambda step, rng: next(scales) * (x - AIM).sum(), 1, parts=2)
    minimise(lambda step, rng: 2.0 * (y - AIM).sum(), [y], 1, 0.1, "sgd")
    assert torch.allclose(x, y, atol=1e-15)


def test_no_steps_no_change_and_after_counts() -> None:
    x, seen = start(), []
    assert minimise(noisy(x), [x], 0, 0.1) == []
    assert torch.equal(x, start())
    minimise(noisy(x), [x], 3, 0.1, after=seen.append)
    assert seen == [1, 2, 3]


def test_stops_on_what_is_no_number() -> None:
    x = start()
    with pytest.raises(NumericsError, match="nan"):
        minimise(lambda step, rng: (x - AIM).square().sum() * float("nan"), [x], 3, 0.1)
    assert torch.equal(x, start())


def test_negative_rate_is_refused() -> None:
    with pytest.raises(SettingsError, match="lr"):
        minimise(noisy(x := start()), [x], 1, -0.1)
