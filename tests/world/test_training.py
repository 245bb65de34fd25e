"""The loop, its optimiser, its file: what is resumed goes on as if it had never stopped."""

import itertools
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from world import loop
from world.loop import Plan, fit
from world.muon import Muon, orthogonal, split


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))


def loss_of(module):
    def loss(generator, step):
        x = torch.randn(16, 6, generator=generator)
        return (module(x)[:, 0] - x.sum(1)).square().mean()

    return loss


def train(folder, steps, plan_steps=60, world="w", **changes):
    module = net()
    plan = Plan(plan_steps, 1e-2, 3, warmup=5, world=world, **changes)
    count = {"left": steps}
    inner = loss_of(module)

    def limited(generator, step):
        if count["left"] == 0:
            raise KeyboardInterrupt
        count["left"] -= 1
        return inner(generator, step)

    return fit(module, limited, plan, folder / "x.checkpoint")


def test_a_resumed_training_ends_as_an_unbroken_one(tmp_path):
    whole = train(tmp_path / "a", 60)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "b", 25, save_seconds=0)
    resumed = train(tmp_path / "b", 60)
    assert resumed.step == whole.step == 60
    assert resumed.is_complete
    for a, b in zip(whole.average.parameters(), resumed.average.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=0, rtol=0)


def test_training_lowers_the_loss(tmp_path):
    trained = train(tmp_path, 60).average
    x = torch.randn(500, 6, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before, after = ((m(x)[:, 0] - x.sum(1)).square().mean() for m in (net(), trained))
    assert after < 0.3 * before


def test_a_checkpoint_of_another_world_or_rate_is_refused(tmp_path):
    train(tmp_path, 60)
    with pytest.raises(SystemExit, match=r"belongs to world w, rate 0\.01, seed 3, not world v"):
        train(tmp_path, 60, world="v")


def test_a_budget_ends_the_training_and_is_counted_over_calls(tmp_path, monkeypatch):
    seconds = itertools.count()
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    long = {"plan_steps": 10**6, "budget": 5.0}
    first = train(tmp_path, 10**6, minutes=1.0, **long)
    assert not first.is_complete
    assert first.step % 10 == 0
    second = train(tmp_path, 10**6, **long)
    assert second.is_complete
    assert 3 * first.step < second.step < 8 * first.step
    assert train(tmp_path, 0, **long).step == second.step


def test_the_rate_falls_with_steps_or_with_time():
    plan = Plan(100, 1.0, 0, warmup=10)
    assert plan.lr_at(4) == pytest.approx(0.5)
    assert plan.lr_at(10) == pytest.approx(1.0)
    assert plan.lr_at(99) < 0.03
    timed = Plan(10**7, 1.0, 0, warmup=10, budget=2.0)
    assert timed.lr_at(500, minutes=0.0) == pytest.approx(1.0, abs=1e-3)
    assert timed.lr_at(500, minutes=1.0) == pytest.approx(0.51, abs=1e-2)
    assert timed.lr_at(500, minutes=2.0) == pytest.approx(0.02, abs=1e-3)


@pytest.mark.parametrize("shape", [(3, 32, 48), (2, 48, 32), (1, 32, 32)])
def test_updates_are_nearly_orthogonal(shape):
    matrices = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonal(matrices))
    assert values.max() < 1.3
    assert values.median() > 0.6
    sides = [torch.linalg.svd(m, full_matrices=False) for m in matrices]
    exact = torch.stack([u @ v for u, _, v in sides])
    assert nn.functional.cosine_similarity(orthogonal(matrices).flatten(1), exact.flatten(1)).min() > 0.95


def test_matrices_of_one_shape_are_updated_as_each_alone():
    layers = [nn.Linear(30, 40, bias=False) for _ in range(3)]
    grads = [torch.randn(40, 30) for _ in layers]
    alone = []
    for layer, grad in zip(layers, grads, strict=True):
        copy = nn.Parameter(layer.weight.detach().clone())
        copy.grad = grad
        Muon([copy], 0.1).step()
        alone.append(copy)
    for layer, grad in zip(layers, grads, strict=True):
        layer.weight.grad = grad
    Muon([layer.weight for layer in layers], 0.1).step()
    for layer, expected in zip(layers, alone, strict=True):
        torch.testing.assert_close(layer.weight, expected, atol=1e-5, rtol=1e-4)


def test_every_trained_parameter_has_one_optimiser():
    module = net()
    module[0].bias.requires_grad_(False)
    matrices, others = split(module)
    assert [tuple(p.shape) for p in matrices] == [(32, 32)]
    assert len(others) == 4
