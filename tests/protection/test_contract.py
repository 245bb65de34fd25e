"""What every registered protection must do, whatever it is."""

import tomllib
from functools import cache

import pytest
import torch

from tests.attacks.test_contract import state
from tests.protection.cases import MOST, QUICK, budget, case, quick
from tests.toml_text import toml_text
from unconcept.core.errors import SettingsError
from unconcept.core.settings import build_settings, settings_data
from unconcept.models.families import FAMILIES
from unconcept.protection import protect_picture, protections

# Each family is protected by the same code, as the gradients that reach it say; those that read no model are the same
# on all.
FAST = "sd1"
CASES = [
    pytest.param(name, family, marks=() if family == FAST else pytest.mark.slow)
    for name in protections
    for family in (protections[name].families if protections[name].reads_model else ("sd1",))
]


# A toy depends so little on its input that a small change is lost in the noise, and what one that predicts noise
# (sd1) does wrong does not depend on the picture at all.
STRONG = {
    "trajectory-shift": {"steps": 2, "rounds": 1, "iterations": 16, "lr": 0.5, "base": "picture", "samples": 8},
    "pixel-pgd": {"iterations": 16, "step_size": 0.05, "epsilon": 1.0, "samples": 8},
}


@cache
def protected(name, family):
    asked = case(family)
    before = state(asked.model)
    found = protect_picture(quick(name), asked)
    assert state(asked.model) == before
    assert torch.is_grad_enabled()
    return found


@pytest.mark.parametrize(("name", "family"), CASES)
def test_keeps_the_budget_in_8_bits_and_leaves_the_model_alone(name, family) -> None:
    asked, found = case(family), protected(name, family)
    assert found.shape == asked.picture.shape
    assert not torch.equal(found, asked.picture)
    assert torch.equal((found * 255).round() / 255, found)
    assert (found - asked.picture).square().mean().sqrt() <= MOST
    assert 0 <= found.min() <= found.max() <= 1


@pytest.mark.parametrize("name", list(protections))
def test_same_seed_same_picture(name) -> None:
    assert torch.equal(protect_picture(quick(name), case("sd1")), protected(name, "sd1"))


@pytest.mark.parametrize("name", list(protections))
def test_a_psnr_is_kept_beside_the_distance(name) -> None:
    asked = case("sd1", budget=budget(MOST, psnr=40.0))
    error = (protect_picture(quick(name), asked) - asked.picture).square().mean().sqrt()
    assert 0 < error <= 0.01 + 1e-6


@pytest.mark.parametrize(
    ("name", "family"),
    [
        # One that predicts velocity from noised latents for the one, a flow for the other; the rest are slow.
        pytest.param(name, family, marks=() if (name == "pixel-pgd") == (family == "sd2") else pytest.mark.slow)
        for name in protections
        for family in ("sd2", "sd3")
        if protections[name].reads_model
    ],
)
def test_the_picture_is_harder_to_learn_on_noise_that_was_not_used(name, family) -> None:
    asked = case(family, budget=budget(0.5))
    found = protect_picture(build_settings(protections[name].settings, STRONG[name]), asked)
    loss = asked.learning_loss(16)
    assert loss.held_out(found, 99, 4) > loss.held_out(asked.picture, 99, 4)


@pytest.mark.parametrize("name", list(protections))
def test_settings_survive_toml(name) -> None:
    for settings in (protections[name].settings(), quick(name)):
        assert build_settings(protections[name].settings, tomllib.loads(toml_text(settings_data(settings)))) == settings


@pytest.mark.parametrize("name", list(protections))
def test_row_of_the_table(name) -> None:
    info = protections[name]
    assert info.name in QUICK
    assert info.summary.endswith(".")
    assert info.families == FAMILIES


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("trajectory-shift", {"steps": 0}),
        ("trajectory-shift", {"iterations": 1}),
        ("trajectory-shift", {"lr": -1.0}),
        ("trajectory-shift", {"shift": "sideways"}),
        ("pixel-pgd", {"epsilon": 0.0}),
        ("pixel-pgd", {"iterations": 0}),
        ("jpeg", {"quality": 96}),
        ("blur", {"sigma": 0.0}),
    ],
)
def test_settings_out_of_range(name, settings) -> None:
    with pytest.raises(SettingsError, match=next(iter(settings))):
        build_settings(protections[name].settings, settings)
