"""What must hold exactly of moved trajectories: nothing moved, nothing changed; the way to the shift; the network."""

from dataclasses import replace

import pytest
import torch

from tests import tiny
from tests.protection.cases import budget, case, model, picture_of, quick
from unconcept.core.errors import SettingsError
from unconcept.models.diffusion.vae import decode_latents, encode_images
from unconcept.protection import PreparationCase, PreparedProtection, protect_picture
from unconcept.protection.trajectory_shift import TrajectoryShift
from unconcept.training import loss_gradient
from unconcept.training.perturbation.budget import DualWeight
from unconcept.training.perturbation.learning_loss import LearningLoss
from unconcept.training.perturbation.shift_network import fresh_network, restored_network
from unconcept.training.perturbation.trajectory import invert_latents_of, invert_pictures, trajectory_sampler

CONTRACT_SETTINGS = {"steps": 2, "iterations": 12, "lr": 0.2, "base": "picture", "samples": 4}
FAMILIES = ["sd1", "sd3", *(pytest.param(family, marks=pytest.mark.slow) for family in ("sd2", "flux"))]


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_no_shift_draws_the_autoencoders_reconstruction(family) -> None:
    picture = picture_of(family)[None]
    here = invert_pictures(trajectory_sampler(model(family), 3, "x"), picture)
    wanted = decode_latents(model(family), encode_images(model(family), picture))
    assert torch.allclose(here.reconstruction, wanted, atol=1e-6)
    assert torch.allclose(here.picture_at(torch.zeros_like(here.noise)), wanted, atol=1e-4)
    assert (here.noise - encode_images(model(family), picture)).norm() > 1


@torch.no_grad()
def test_a_descent_without_a_rate_leaves_what_is_changed() -> None:
    """The reconstruction in the paper's form, the picture itself in ours."""
    asked = case("sd1", budget=budget(10.0))
    still = replace(quick("trajectory-shift"), lr=0.0, iterations=2)
    with torch.enable_grad():
        assert (still.protect(asked) - asked.picture).abs().max() < 1e-4
        drawn = replace(still, base="reconstruction").protect(asked)
    assert torch.allclose(
        drawn, decode_latents(asked.model, encode_images(asked.model, asked.picture[None]))[0], atol=1e-4
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_reach_the_shift_through_the_sampler(family) -> None:
    """By finite differences along the gradient, in float64."""
    view = tiny.view(family)
    here = invert_pictures(trajectory_sampler(view, 2, "x"), picture_of(family)[None].double())
    loss = LearningLoss(view, "", 2)

    def value(shift):
        return loss(here.picture_at(shift), torch.Generator().manual_seed(3))

    shift = torch.zeros_like(here.noise).requires_grad_()
    (gradient,) = loss_gradient(value(shift), [shift])
    assert gradient.norm() > 0
    way = gradient / gradient.norm()
    with torch.no_grad():
        slope = (value(1e-3 * way) - value(-1e-3 * way)) / 2e-3
    assert slope.item() == pytest.approx(gradient.norm().item(), rel=0.02)


def test_each_round_begins_where_the_last_one_ended() -> None:
    sampler, shift = trajectory_sampler(model("sd1"), 2, "x"), 0.3
    with torch.no_grad():
        first = invert_pictures(sampler, picture_of("sd1")[None])
        moved = first.latents_at(torch.full_like(first.noise, shift))
        again = invert_latents_of(sampler, moved)
        assert torch.allclose(again.latents_at(torch.zeros_like(moved)), moved, atol=1e-4)


def test_the_weight_of_the_budget_ascends_while_it_is_exceeded() -> None:
    dual = DualWeight(1.0, 0.5)
    assert float(dual.penalty(torch.tensor([3.0]))) == 2.0
    assert dual.weight == 2.0
    assert float(dual.penalty(torch.tensor([0.0]))) == 0.0
    assert dual.weight == 1.5
    for _ in range(4):
        dual.penalty(torch.tensor([0.0]))
    assert dual.weight == 0.0


def test_a_network_is_trained_once_and_predicts_the_shift() -> None:
    settings = replace(
        quick("trajectory-shift"),
        shift="network", network_iterations=12, network_lr=3e-3, network_pictures=2, network_batch=1, network_width=4,
    )  # fmt: skip
    assert isinstance(settings, PreparedProtection)
    assert settings.training_pictures == 2
    assert quick("trajectory-shift").training_pictures == 0
    given = PreparationCase(model("sd1"), torch.stack([picture_of("sd1", seed) for seed in (1, 2)]), budget())
    weights = settings.prepare(given)
    again = settings.prepare(given)
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    asked = case("sd1", prepared=weights)
    found = protect_picture(settings, asked)
    loss = asked.learning_loss(16)
    assert loss.held_out(found, 99, 4) > loss.held_out(asked.picture, 99, 4)
    with pytest.raises(SettingsError, match="prepare it first"):
        settings.protect(case("sd1"))


def test_a_fresh_network_moves_nothing_and_leaves_torchs_generator() -> None:
    before = torch.get_rng_state()
    network = fresh_network(4, 4, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    noise = torch.randn(1, 4, 7, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(network(noise), torch.zeros_like(noise))
    torch.nn.init.ones_(network.leave.weight)
    assert torch.equal(restored_network(network.state_dict())(noise), network(noise))


def test_a_model_that_noises_anew_has_no_way_back() -> None:
    few = type("Few", (), {"step": "renoise"})()
    moved = type("Moved", (), {"few_step": few, "name": "few", "schedule": model("sd1").schedule})()
    with pytest.raises(SettingsError, match="cannot be run backwards"):
        trajectory_sampler(moved, 2, "trajectory-shift")


def test_its_defaults_are_those_of_the_source() -> None:
    assert TrajectoryShift().multiplier == 1.0
    assert TrajectoryShift().dual_lr == 0.01
    assert TrajectoryShift().network_lr == 1e-4
