"""Image-to-image against the stock pipelines, and inversions by the ways back that they promise."""

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    FluxImg2ImgPipeline,
    StableDiffusion3Img2ImgPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionXLImg2ImgPipeline,
)

from tests import tiny
from tests.models.test_sampler import PROMPTS, built, generators, random
from unconcept.core.errors import DataError, SettingsError
from unconcept.models.diffusion.inversion import inversion_timesteps, invert_edit_friendly, invert_latents
from unconcept.models.diffusion.packed_latents import unpack_latents
from unconcept.models.diffusion.sampler import LoopOptions, Sampler
from unconcept.models.diffusion.schedulers import named_scheduler
from unconcept.models.diffusion.vae import finish_pictures, require_picture_size
from unconcept.models.model_view import SamplingStart
from unconcept.models.views import view_of_pipeline

STOCK = {
    "sd1": StableDiffusionImg2ImgPipeline,
    "sd2": StableDiffusionImg2ImgPipeline,
    "sdxl": StableDiffusionXLImg2ImgPipeline,
    "sd3": StableDiffusion3Img2ImgPipeline,
    "flux": FluxImg2ImgPipeline,
}
CASES = [(family, None) for family in STOCK] + [("sd1", "dpm"), ("sd1", "euler"), ("sdxl", "lcm")]


def compare(family, name, steps, level) -> None:
    """From the same clean latents and noise, as both pipelines take latents in place of a picture."""
    pipe = built(family)
    view, own = view_of_pipeline(pipe), pipe.scheduler
    latents = random(2, *view.latent_shape, seed=5)
    sampler = Sampler(view, steps, name)
    k, rngs = sampler.begin_at(level), generators(2)
    noise = torch.cat([torch.randn(1, *view.latent_shape, generator=rng) for rng in rngs])
    ours = sampler.denoise(sampler.add_noise(latents, noise, k), view.guide(PROMPTS, 4.0), k, options=LoopOptions(rngs))
    parts = {key: part for key, part in pipe.components.items() if key != "scheduler"}
    if family in ("sd1", "sd2"):
        parts |= {"requires_safety_checker": False}
    theirs = STOCK[family](scheduler=own if name is None else named_scheduler(name, own), **parts)
    theirs.set_progress_bar_config(disable=True)
    size = {} if family in ("sd1", "sd2", "sdxl") else {"height": 16, "width": 16}
    asked = {"num_inference_steps": steps, "strength": level, "guidance_scale": 4.0, "output_type": "latent"}
    found = theirs(PROMPTS, image=latents, generator=generators(2), **asked, **size).images
    found = unpack_latents(found, 4, 4) if family == "flux" else found
    assert torch.allclose(ours, found, rtol=0, atol=1e-5), (ours - found).abs().max()


@pytest.mark.parametrize(("family", "name"), CASES)
@torch.no_grad()
def test_image_to_image_is_the_stock_pipelines(family, name) -> None:
    compare(family, name, 5, 0.7)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "name"), CASES)
@torch.no_grad()
def test_image_to_image_is_the_stock_pipelines_at_every_level(family, name) -> None:
    for steps, level in ((4, 0.25), (20, 0.33), (20, 0.55), (20, 0.8), (7, 1.0)):
        compare(family, name, steps, level)


@torch.no_grad()
def inverted(family, steps):
    view = tiny.shared(family)
    sampler = Sampler(view, steps, None if family in tiny.MMDITS else "ddim")
    latents, guidance = random(2, *view.latent_shape, dtype=view.dtype), view.guide(PROMPTS, 1.0)
    noise = invert_latents(view, latents, guidance, inversion_timesteps(sampler))
    return (sampler.denoise(noise, guidance) - latents).norm() / latents.norm()


@pytest.mark.parametrize("family", ["sd2", "sd3", pytest.param("flux", marks=pytest.mark.slow)])
def test_the_way_back_is_closer_with_more_steps(family) -> None:
    """An error of first order: eight times the steps leave less than a quarter of it."""
    coarse, fine = inverted(family, 5), inverted(family, 40)
    assert fine < coarse / 4
    assert fine < 0.1


@pytest.mark.parametrize("family", ["sd1", "sd2", "sd3"])
@torch.no_grad()
def test_a_constant_prediction_is_inverted_exactly(family) -> None:
    view = tiny.view(family)
    if family != "sd3":  # As in the published models: the last step ends at the level of timestep 0.
        kind = view.schedule.prediction_type
        scheduler = DDIMScheduler(beta_schedule="scaled_linear", set_alpha_to_one=False, prediction_type=kind)
        view.checkpoint.built_pipeline.scheduler = scheduler
    sampler, x, noise = Sampler(view, 7, None if family == "sd3" else "ddim"), *(random64(seed) for seed in (0, 1))
    constant = Constant(view, noise)
    start = invert_latents(view, x, constant, inversion_timesteps(sampler))
    assert constant.calls == sorted(constant.calls)
    assert constant.calls[0] == 0
    assert torch.allclose(sampler.denoise(start, constant), x, atol=1e-4)


def random64(seed: int) -> torch.Tensor:
    return random(1, 4, 8, 8, seed=seed, dtype=torch.float64)


class Constant:
    """Guidance that predicts the same noise, or the same flow, whatever the latents are."""

    scale = None

    def __init__(self, view, noise) -> None:
        self.schedule, self.noise, self.calls = view.schedule, noise, []

    def predict(self, model, latents, t):
        return self.combine(*self.predict_sides(model, latents, t))

    def predict_sides(self, model, latents, t):
        self.calls.append(float(t))
        is_flow = self.schedule.prediction_type == "flow"
        return None, self.noise if is_flow else self.schedule.prediction_of(self.noise, latents, t[None])

    def combine(self, empty, said):
        return said


@pytest.mark.parametrize(
    "family", ["sd1", "pixart", *(pytest.param(family, marks=pytest.mark.slow) for family in ("sd2", "sdxl"))]
)
@torch.no_grad()
def test_edit_friendly_noise_gives_the_picture_back_for_any_weights(family) -> None:
    """From every step on, under the prompts of the inversion, and not under others."""
    view = tiny.view(family, torch.float32)
    sampler, latents = Sampler(view, 6, "ddim", eta=1.0), random(2, *view.latent_shape, seed=3)
    guidance = view.guide(PROMPTS, 2.0)
    found = invert_edit_friendly(sampler, latents, guidance, generators(2))
    for k in (0, 3):
        start = found.start(k)
        options = LoopOptions(residuals=start.residuals)
        again = sampler.denoise(start.latents, guidance, k, options=options)
        assert (again - latents).abs().max() < 1e-3
        other = sampler.denoise(start.latents, view.guide(["sun", "cat"], 2.0), k, options=options)
        assert (other - latents).abs().max() > 1e-2
    drawn = view.sample(PROMPTS, found.start(), 6, 2.0, "ddim")
    assert torch.allclose(drawn, finish_pictures(view, latents), atol=1e-2)


@torch.no_grad()
def test_edit_friendly_latents_are_noised_independently() -> None:
    """Each is at its own level, and the noises of two calls have nothing in common."""
    view = tiny.view("sd1", torch.float32)
    sampler, latents = Sampler(view, 4, "ddim", eta=1.0), torch.zeros(64, *view.latent_shape)
    guidance = type(view.guide(["a"], 1.0))(view.guide(["a"] * 64, 1.0).texts)
    found = invert_edit_friendly(sampler, latents, guidance, generators(64))
    levels = view.schedule.sigma[sampler.timesteps]
    assert torch.allclose(found.latents.flatten(1).std(1).double(), levels, rtol=0.03)
    assert torch.corrcoef(found.latents.flatten(1)).fill_diagonal_(0).abs().max() < 0.05


def test_bad_input_is_one_line() -> None:
    view = tiny.shared("sd1")
    sampler = Sampler(view, 20, "ddim")
    for level in (-0.1, 0.0, 0.04, 1.01, float("nan")):
        with pytest.raises(SettingsError, match=rf"start level {level}: give 0.05 \(one of 20 steps\) to 1"):
            sampler.begin_at(level)
    x = random(1, *view.latent_shape, dtype=view.dtype)
    with pytest.raises(SettingsError, match=r"start step 20: give 0"):
        sampler.add_noise(x, x, 20)
    guidance = view.guide(["a"], 1.0)
    with pytest.raises(SettingsError, match="do not rise from 0"):
        invert_latents(view, x, guidance, [999, 500, 0])
    with pytest.raises(SettingsError, match="make the sampler with name='ddim' and eta=1"):
        invert_edit_friendly(sampler, x, guidance, generators(1))
    with pytest.raises(SettingsError, match=r"residuals have shape \(3, 1, 4, 8, 8\): give \(20, 1, 4, 8, 8\)"):
        sampler.denoise(x, guidance, options=LoopOptions(residuals=x.expand(3, -1, -1, -1, -1)))
    with pytest.raises(DataError, match=r"cat\.png has 24x16 pixels, but tiny-sd1 draws 16x16: scale or crop it"):
        require_picture_size(view, torch.zeros(1, 3, 16, 24), "cat.png")


@torch.no_grad()
def test_less_noise_keeps_more_of_a_picture() -> None:
    """The lowest level moves its latents by little, the highest forgets them."""
    view = tiny.view("sd2", torch.float32)
    sampler, latents, noise = Sampler(view, 20, "ddim"), random(1, 4, 8, 8), random(1, 4, 8, 8, seed=1)
    guidance, moved = view.guide(["a"], 1.0), []
    for level in (0.05, 0.5, 1.0):
        k = sampler.begin_at(level)
        drawn = sampler.denoise(sampler.add_noise(latents, noise, k), guidance, k)
        moved.append(float((drawn - latents).norm() / latents.norm()))
        start = SamplingStart(sampler.add_noise(latents, noise, k), k)
        assert torch.allclose(view.sample(["a"], start, 20, 1.0, "ddim"), finish_pictures(view, drawn), atol=1e-5)
    assert moved[0] < 0.3
    assert moved[0] < moved[1] < moved[2]
