"""Steps of the way from noise to picture against diffusers' own schedulers."""

import pytest
import torch
from diffusers import DDIMScheduler

from tests import tiny
from unconcept.core.errors import SettingsError
from unconcept.models.diffusion.sampling_grid import SamplingGrid, is_guidance_distilled


def latents(view, seed):
    return torch.randn(2, *view.latent_shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("steps", [7, 50])
def test_is_ddim_without_noise(family, steps) -> None:
    view = tiny.shared(family)
    rule = DDIMScheduler.from_config(view.pipeline.scheduler.config, clip_sample=False)
    rule.set_timesteps(steps)
    grid, x = SamplingGrid.of(view, steps), latents(view, 0)
    assert torch.equal(grid.t, rule.timesteps)
    for k in range(steps):
        said = latents(view, k + 1)
        theirs = rule.step(said, rule.timesteps[k], x, eta=0.0).prev_sample
        ours = grid.step(x, said, k)
        assert torch.allclose(ours, theirs, atol=1e-5, rtol=1e-5)
        x = theirs


@pytest.mark.parametrize("family", tiny.MMDITS)
def test_is_eulers_step_along_the_flow(family) -> None:
    view = tiny.shared(family)
    grid, x = SamplingGrid.of(view, 6), latents(view, 0)
    assert float(grid.sigma[0]) == pytest.approx(1.0)
    assert float(grid.sigma[-1]) == 0.0
    for k in range(6):
        said = latents(view, k + 1)
        assert torch.allclose(grid.step(x, said, k), x + (grid.sigma[k + 1] - grid.sigma[k]) * said, atol=1e-6)
        assert float(grid.t[k]) == pytest.approx(1000 * float(grid.sigma[k]), rel=1e-6)


def test_a_flows_grid_is_its_pipelines() -> None:
    """As a drawing of SD3 and FLUX leaves it in the scheduler."""
    for family in tiny.MMDITS:
        view = tiny.view(family, torch.float32)
        view.sample(["a dog"], latents(view, 0)[:1].float(), 4, 1.0)
        assert torch.allclose(view.pipeline.scheduler.timesteps.double(), SamplingGrid.of(view, 4).t, rtol=1e-5)


def test_which_models_are_guided_within() -> None:
    assert is_guidance_distilled(tiny.shared("flux"))
    assert not any(is_guidance_distilled(tiny.shared(family)) for family in (*tiny.FAMILIES, "sd3"))


def test_no_steps_are_refused() -> None:
    with pytest.raises(SettingsError, match="> 0"):
        SamplingGrid.of(tiny.shared("sd1"), 0)
    with pytest.raises(SettingsError, match="1000 timesteps"):
        SamplingGrid.of(tiny.shared("sd1"), 1001)
