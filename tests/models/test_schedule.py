"""Conversions between what networks predict, against diffusers' own formulas."""

import pytest
import torch
from diffusers import DDPMScheduler, EDMEulerScheduler, FlowMatchEulerDiscreteScheduler

from unconcept.core.errors import ModelError
from unconcept.models.diffusion.noise_schedule import NoiseSchedule

G = torch.Generator().manual_seed(0)
X0, NOISE = (torch.randn(4, 2, 3, 3, dtype=torch.float64, generator=G) for _ in range(2))
T = torch.tensor([0, 10, 500, 999])


def scheduler(kind: str) -> DDPMScheduler:
    return DDPMScheduler(beta_schedule="scaled_linear", prediction_type=kind)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_true_outputs_give_back_noise_and_picture(kind) -> None:
    theirs = scheduler(kind)
    schedule = NoiseSchedule.of(theirs)
    x_t = schedule.add_noise(X0, NOISE, T)
    assert torch.allclose(x_t, theirs.add_noise(X0, NOISE, T), atol=1e-6)
    output = {"epsilon": NOISE, "v_prediction": theirs.get_velocity(X0, NOISE, T), "sample": X0}[kind].double()
    assert torch.allclose(schedule.epsilon(output, x_t, T), NOISE, atol=1e-4)
    assert torch.allclose(schedule.x0(output, x_t, T), X0, atol=1e-4)
    assert torch.allclose(schedule.prediction_of(NOISE, x_t, T), output, atol=1e-4)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_round_trip_is_exact(kind) -> None:
    schedule = NoiseSchedule.of(scheduler(kind))
    guess = torch.randn(4, 2, 3, 3, dtype=torch.float64, generator=G)
    x_t = schedule.add_noise(X0, NOISE, T)
    assert torch.allclose(schedule.prediction_of(schedule.epsilon(guess, x_t, T), x_t, T), guess, atol=1e-9)


def test_affine_combinations_commute_with_conversion() -> None:
    """Weights that sum to 1, as in negative guidance, mean the same on noise and on v."""
    schedule = NoiseSchedule.of(scheduler("v_prediction"))
    x_t = schedule.add_noise(X0, NOISE, T)
    one, two = (torch.randn(4, 2, 3, 3, dtype=torch.float64, generator=G) for _ in range(2))
    mixed = schedule.epsilon(2 * one - two, x_t, T)
    assert torch.allclose(mixed, 2 * schedule.epsilon(one, x_t, T) - schedule.epsilon(two, x_t, T), atol=1e-9)


FLOWS = [FlowMatchEulerDiscreteScheduler(), FlowMatchEulerDiscreteScheduler(shift=3.0)]


@pytest.mark.parametrize("theirs", FLOWS, ids=["plain", "shifted"])
def test_flow_is_diffusers_forward_process(theirs) -> None:
    """At the timesteps of its own, which need not be whole: a timestep is 1000 sigma whatever the shift."""
    schedule = NoiseSchedule.of(theirs)
    t = theirs.timesteps[[0, 7, 500, 998]].double()
    mine = schedule.add_noise(X0, NOISE, t)
    assert schedule.prediction_type == "flow"
    assert torch.allclose(mine, theirs.scale_noise(X0, theirs.timesteps[[0, 7, 500, 998]], NOISE), atol=1e-6)
    assert torch.equal(schedule.training_target(X0, NOISE, t), NOISE - X0)


def test_flow_gives_back_noise_and_picture() -> None:
    schedule, t = NoiseSchedule.of(FLOWS[0]), torch.tensor([1, 10, 500, 999])
    x_t, flow = schedule.add_noise(X0, NOISE, t), NOISE - X0
    assert torch.allclose(schedule.epsilon(flow, x_t, t), NOISE, atol=1e-12)
    assert torch.allclose(schedule.x0(flow, x_t, t), X0, atol=1e-12)
    assert torch.allclose(schedule.prediction_of(NOISE, x_t, t), flow, atol=1e-9)
    guess = torch.randn(4, 2, 3, 3, dtype=torch.float64, generator=G)
    assert torch.allclose(schedule.prediction_of(schedule.epsilon(guess, x_t, t), x_t, t), guess, atol=1e-9)
    mixed = schedule.epsilon(2 * guess - flow, x_t, t)
    assert torch.allclose(mixed, 2 * schedule.epsilon(guess, x_t, t) - schedule.epsilon(flow, x_t, t), atol=1e-12)


def test_flow_and_v_of_one_state_are_one_prediction() -> None:
    """The same x_t up to its scale, x_t / (a + s) on the straight path: noise and picture agree, so flow follows from
    v.
    """
    v, flow = NoiseSchedule.of(scheduler("v_prediction")), NoiseSchedule.of(FLOWS[0])
    x_t, scale = v.add_noise(X0, NOISE, T), (v.alpha + v.sigma)[T].view(-1, 1, 1, 1)
    t = 1000 * (v.sigma / (v.alpha + v.sigma))[T]
    straight = x_t / scale
    guess = torch.randn(4, 2, 3, 3, dtype=torch.float64, generator=G)
    noise, picture = v.epsilon(guess, x_t, T), v.x0(guess, x_t, T)
    assert torch.allclose(flow.add_noise(picture, noise, t), straight, atol=1e-9)
    assert torch.allclose(flow.prediction_of(noise, straight, t), noise - picture, atol=1e-6)


def test_flow_begins_clean_and_ends_as_noise() -> None:
    schedule = NoiseSchedule.of(FLOWS[1])
    assert torch.equal(schedule.add_noise(X0, NOISE, torch.tensor(0)), X0)
    assert torch.equal(schedule.add_noise(X0, NOISE, torch.tensor(len(schedule.alpha) - 1)), NOISE)
    assert len(schedule.alpha) == len(schedule.sigma) == 1001
    assert torch.allclose(schedule.alpha + schedule.sigma, torch.ones(1001, dtype=torch.float64))


def test_other_schedules_are_refused() -> None:
    with pytest.raises(ModelError, match="its noise schedule is unknown"):
        NoiseSchedule.of(EDMEulerScheduler())
