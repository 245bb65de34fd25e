"""The part of vectors along others, against Gram-Schmidt and normal equations written out."""

import pytest
import torch

from unconcept.linalg.gated_projection import SimilarityGate, component_along

RNG = torch.Generator().manual_seed(3)
GATE = SimilarityGate(2.0, 5.0, 0.2)  # soft, so that random vectors are let in partly


def random(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=RNG)


def gram_schmidt(v, targets):
    """Projection of one vector on a span, by true Gram-Schmidt."""
    basis, part = [], torch.zeros_like(v)
    for t in targets:
        for b in basis:
            t = t - (t @ b) / (b @ b) * b
        basis.append(t)
        part = part + (t @ v) / (t @ t) * t
    return part


@pytest.mark.parametrize("n", [1, 2, 5])
def test_without_a_gate_it_is_the_projection(n) -> None:
    values, targets = random(2, 3, 12), random(n, 12)
    found = component_along(values, targets, None)
    for b in range(2):
        for j in range(3):
            assert torch.allclose(found[b, j], gram_schmidt(values[b, j], targets), atol=1e-10, rtol=0)
    left = values - found
    assert (left @ targets.T).abs().max() < 1e-10
    assert component_along(left, targets, None).abs().max() < 1e-10
    assert torch.allclose(component_along(values, targets.flip(0), None), found, atol=1e-10)


def test_one_target_is_the_papers_equation() -> None:
    """v_erase = s / (1 + exp(-p (cos - eps))) <v_t, v> / <v_t, v_t> v_t."""
    values, target = random(2, 3, 12), random(12)
    found = component_along(values, target[None], GATE)
    for b in range(2):
        for j in range(3):
            v = values[b, j]
            cos = (target @ v) / (target.norm() * v.norm())
            delta = GATE.s / (1 + torch.exp(-GATE.p * (cos - GATE.eps)))
            assert torch.allclose(found[b, j], delta * (target @ v) / (target @ target) * target, atol=1e-10, rtol=0)


def test_one_target_beside_another_vector_is_the_codes_equation() -> None:
    """Halves of the batch side by side: v = [u ; v_c], v_t = [u ; v_t,c]; the second half of what is erased."""
    values, target, u = random(1, 3, 12), random(12), random(3, 12)
    found = component_along(values, target[None], GATE, u.square().sum(1))
    for j in range(3):
        v, t = torch.cat([u[j], values[0, j]]), torch.cat([u[j], target])
        delta = GATE.s / (1 + torch.exp(-GATE.p * ((t @ v) / (t.norm() * v.norm()) - GATE.eps)))
        assert torch.allclose(found[0, j], (delta * (t @ v) / (t @ t) * t)[12:], atol=1e-10, rtol=0)


def test_several_targets_with_gates_are_the_normal_equations() -> None:
    values, targets = random(2, 3, 12), random(4, 12)
    found = component_along(values, targets, GATE)
    for b in range(2):
        for j in range(3):
            v = values[b, j]
            cos = targets @ v / (targets.norm(dim=1) * v.norm())
            gates = 1 / (1 + torch.exp(-GATE.p * (cos - GATE.eps)))
            system = targets @ targets.T + torch.diag((1 / gates - 1) * targets.square().sum(1))
            assert torch.allclose(
                found[b, j], GATE.s * torch.linalg.inv(system) @ (targets @ v) @ targets, atol=1e-10, rtol=0
            )


def test_a_closed_gate_is_no_target() -> None:
    value, near = random(1, 1, 12), random(2, 12)
    near[0] = value[0, 0] + 0.1 * near[0]
    far = near[1] - 2 * (near[1] @ value[0, 0]) / (value[0, 0] @ value[0, 0]) * value[0, 0] * (
        near[1] @ value[0, 0] > 0
    )
    sharp = SimilarityGate(2.0, 100.0, 0.93)
    assert torch.allclose(
        component_along(value, torch.stack([near[0], far]), sharp), component_along(value, near[:1], sharp), atol=1e-12
    )


@pytest.mark.parametrize("gate", [None, GATE, SimilarityGate(2.0, 100.0, 0.93)])
def test_targets_that_are_almost_the_same_do_not_blow_up(gate) -> None:
    values, target = random(2, 3, 12), random(1, 12)
    crowd = target + 1e-6 * random(20, 12)
    found = component_along(values, crowd, gate)
    assert found.norm(dim=2).le(2.001 * values.norm(dim=2)).all()
    twice = component_along(values, target.repeat(2, 1), None)
    assert torch.allclose(twice, component_along(values, target, None), atol=1e-8)


def test_closed_gates_have_a_gradient() -> None:
    values = random(1, 2, 12).float().requires_grad_()
    component_along(values, -values.detach()[0, :1], SimilarityGate(2.0, 100.0, 0.93)).square().sum().backward()
    assert torch.isfinite(values.grad).all()


def test_zeros_stay_zeros() -> None:
    for gate in (None, GATE):
        assert component_along(torch.zeros(1, 2, 4), torch.randn(2, 4, generator=RNG), gate).abs().max() == 0
        assert torch.isfinite(component_along(torch.ones(1, 2, 4), torch.zeros(1, 4), gate)).all()


def test_half_precision_is_widened_inside() -> None:
    values, targets = 300 * random(2, 3, 64), 300 * random(2, 64)
    exact = component_along(values.half().double(), targets.half().double(), GATE)
    assert torch.allclose(component_along(values.half(), targets.half(), GATE).double(), exact, rtol=2e-3, atol=0.1)


def test_many_targets_are_solved_in_parts(monkeypatch) -> None:
    values, targets = torch.randn(5, 3, 8, dtype=torch.float64), torch.randn(4, 8, dtype=torch.float64)
    gate, beside = SimilarityGate(2.0, 5.0, 0.1), torch.rand(3, dtype=torch.float64)
    whole = component_along(values, targets, gate, beside)
    monkeypatch.setattr("unconcept.linalg.gated_projection._MOST_SYSTEM_NUMBERS", 2 * 3 * 16)
    assert torch.allclose(component_along(values, targets, gate, beside), whole, atol=1e-12)
