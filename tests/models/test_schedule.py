"""Conversions between what networks predict, against diffusers' own formulas."""

import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler

from unconcept.core.errors import ModelError
from unconcept.models.schedule import Schedule

G = torch.Generator().manual_seed(0)
X0, NOISE = (torch.randn(4, 2, 3, 3, dtype=torch.float64, generator=G) for _ in range(2))
T = torch.tensor([0, 10, 500, 999])


def scheduler(kind: str) -> DDPMScheduler:
    return DDPMScheduler(beta_schedule="scaled_linear", prediction_type=kind)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_true_outputs_give_back_noise_and_picture(kind) -> None:
    theirs = scheduler(kind)
    schedule = Schedule.of(theirs)
    x_t = schedule.noised(X0, NOISE, T)
    assert torch.allclose(x_t, theirs.add_noise(X0, NOISE, T), atol=1e-6)
    output = {"epsilon": NOISE, "v_prediction": theirs.get_velocity(X0, NOISE, T), "sample": X0}[kind].double()
    assert torch.allclose(schedule.epsilon(output, x_t, T), NOISE, atol=1e-4)
    assert torch.allclose(schedule.x0(output, x_t, T), X0, atol=1e-4)
    assert torch.allclose(schedule.output(NOISE, x_t, T), output, atol=1e-4)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_round_trip_is_exact(kind) -> None:
    schedule = Schedule.of(scheduler(kind))
    guess = torch.randn(4, 2, 3, 3, dtype=torch.float64, generator=G)
    x_t = schedule.noised(X0, NOISE, T)
    assert torch.allclose(schedule.output(schedule.epsilon(guess, x_t, T), x_t, T), guess, atol=1e-9)


def test_affine_combinations_commute_with_conversion() -> None:
    """Weights that sum to 1, as in negative guidance, mean the same on noise and on v."""
    schedule = Schedule.of(scheduler("v_prediction"))
    x_t = schedule.noised(X0, NOISE, T)
    one, two = (torch.randn(4, 2, 3, 3, dtype=torch.float64, generator=G) for _ in range(2))
    mixed = schedule.epsilon(2 * one - two, x_t, T)
    assert torch.allclose(mixed, 2 * schedule.epsilon(one, x_t, T) - schedule.epsilon(two, x_t, T), atol=1e-9)


def test_flow_schedules_are_refused() -> None:
    with pytest.raises(ModelError, match="no noise schedule is known"):
        Schedule.of(FlowMatchEulerDiscreteScheduler())
