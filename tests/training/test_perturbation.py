"""The budget of a protected picture, in its distance and in decibels, and the loss that is raised."""

import math

import pytest
import torch

from tests.protection.cases import budget, model, picture_of
from unconcept.core.errors import SettingsError
from unconcept.training.perturbation.budget import in_8_bits, psnr
from unconcept.training.perturbation.learning_loss import LearningLoss
from unconcept.training.token_search import denoising_error


def picture(seed: int = 0) -> torch.Tensor:
    return in_8_bits(torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(seed)))


def test_a_change_is_shrunk_to_the_largest_that_keeps_the_budget_in_8_bits() -> None:
    before, after = picture(0), picture(1)
    for own in (budget(0.05), budget(1.0, psnr=26.0)):
        fitted = own.fit(before, after)
        used = float(own.share_used(before, fitted))
        assert 0.97 < used <= 1
        assert torch.equal(in_8_bits(fitted), fitted)
    assert torch.equal(budget(1.0).fit(before, after), after)
    assert torch.equal(budget(1e-9).fit(before, after), before)


def test_psnr_is_that_of_the_mean_square_error() -> None:
    before = picture(0)
    assert float(psnr(before, before)) == math.inf
    assert float(psnr(torch.zeros(1, 3, 2, 2), torch.full((1, 3, 2, 2), 0.1))) == pytest.approx(20.0)
    assert float(budget(1.0, psnr=20.0).share_used(torch.zeros(1, 3, 2, 2), torch.full((1, 3, 2, 2), 0.1))) == (
        pytest.approx(1.0, rel=1e-5)
    )


@pytest.mark.parametrize(("most", "least"), [(0.0, 0.0), (-1.0, 0.0), (0.1, -1.0)])
def test_a_budget_that_allows_nothing_is_refused(most, least) -> None:
    with pytest.raises(SettingsError, match="give"):
        budget(most, least)


@pytest.mark.parametrize("family", ["sd1", "sd2", "sd3"])
def test_the_loss_is_the_models_own_on_the_encoded_picture(family) -> None:
    view, shown = model(family), picture_of(family)[None]
    loss = LearningLoss(view, "dog", 3)
    with torch.no_grad():
        found = loss(shown, torch.Generator().manual_seed(1))
        rng = torch.Generator().manual_seed(1)
        latents = view.modules("vae").encode(shown * 2 - 1).latent_dist.mode()
        config = view.modules("vae").config
        latents = (latents - (config.shift_factor or 0.0)) * config.scaling_factor
        count = len(view.schedule.alpha)
        grid = torch.arange(count) if family != "sd3" else None
        if grid is None:
            return
        t = grid[torch.randint(count, (3,), generator=rng)]
        noise = torch.randn(3, *latents.shape[1:], generator=rng)
        texts = view.condition(["dog"] * 3)
        wanted = denoising_error(view, texts, latents.expand(3, -1, -1, -1), noise, t).mean()
    assert torch.allclose(found, wanted, rtol=1e-5)


def test_held_out_draws_are_the_same_for_the_same_seed() -> None:
    loss = LearningLoss(model("sd1"), "", 2)
    values = [loss.held_out(picture_of("sd1"), seed, 3) for seed in (1, 1, 2)]
    assert values[0] == values[1] != values[2]
