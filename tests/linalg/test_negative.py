"""Outputs led away from a negative text's: the identities in the papers of NASA and NAG."""

import pytest
import torch

from unconcept.linalg.attention_guidance import normalised_guidance, subtract_negative

PLAIN, NEGATIVE = torch.randn(2, 3, 5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_subtraction_is_linear_in_alpha() -> None:
    at = [subtract_negative(PLAIN, NEGATIVE, alpha, False) for alpha in (0.0, 0.5, 1.0)]
    assert torch.equal(at[0], PLAIN)
    assert torch.allclose(at[1], (at[0] + at[2]) / 2, atol=1e-12)
    assert torch.allclose(subtract_negative(PLAIN, PLAIN, 0.3, False), 0.7 * PLAIN, atol=1e-12)
    assert subtract_negative(PLAIN, PLAIN, 1.0, False).abs().max() == 0


def test_compensated_subtraction_leaves_its_own_negative() -> None:
    assert torch.allclose(subtract_negative(PLAIN, PLAIN, 0.3, True), PLAIN, atol=1e-12)


@pytest.mark.parametrize(("phi", "tau", "a"), [(4.0, 2.5, 0.25), (4.0, 0.5, 1.0), (0.5, 9.0, 0.7)])
def test_guidance_is_the_papers_equations(phi, tau, a) -> None:
    found = normalised_guidance(PLAIN, NEGATIVE, phi, tau, a)
    for b in range(3):
        for i in range(5):
            own = PLAIN[b, i]
            led = own + phi * (own - NEGATIVE[b, i])
            ratio = led.norm() / own.norm()
            led = led * min(float(ratio), tau) / ratio
            assert torch.allclose(found[b, i], a * led + (1 - a) * own, atol=1e-10, rtol=0)


def test_guidance_without_scale_or_share_is_the_identity() -> None:
    assert torch.equal(normalised_guidance(PLAIN, NEGATIVE, 4.0, 2.5, 0.0), PLAIN)
    assert torch.allclose(normalised_guidance(PLAIN, NEGATIVE, 0.0, 2.5, 0.25), PLAIN, atol=1e-12)
    assert torch.allclose(normalised_guidance(PLAIN, PLAIN, 4.0, 2.5, 0.25), PLAIN, atol=1e-12)


def test_guided_rows_are_held_to_tau() -> None:
    led = normalised_guidance(PLAIN, NEGATIVE, 50.0, 2.5, 1.0)
    assert (led.norm(dim=-1) / PLAIN.norm(dim=-1)).max() <= 2.5 + 1e-12


def test_rows_of_nothing_are_finite() -> None:
    zero = torch.zeros(1, 2, 4, requires_grad=True)
    found = normalised_guidance(zero, torch.zeros(1, 2, 4), 4.0, 2.5, 0.25)
    found.sum().backward()
    assert found.abs().max() == 0
    assert torch.isfinite(zero.grad).all()
