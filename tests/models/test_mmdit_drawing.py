"""SD3 and FLUX: predictions, guidance and pictures are the stock pipelines'."""

import pytest
import torch
from diffusers import FluxPipeline

from tests import tiny
from unconcept.models.diffusion.packed_latents import pack_latents, unpack_latents
from unconcept.models.diffusion.vae import decode_latents, encode_images
from unconcept.models.views.flux import FluxView

families = pytest.mark.parametrize("family", tiny.MMDITS)


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def test_packing_is_the_pipelines() -> None:
    latents = random(2, 4, 6, 8)
    packed = FluxPipeline._pack_latents(latents, 2, 4, 6, 8)
    assert torch.equal(pack_latents(latents), packed)
    assert torch.equal(unpack_latents(packed, 3, 4), latents)
    assert torch.equal(unpack_latents(packed, 3, 4), FluxPipeline._unpack_latents(packed, 12, 16, 2))


@families
@torch.no_grad()
def test_denoise_is_the_flow_that_the_pipeline_follows(family) -> None:
    """Euler steps by hand along `denoise`, at the levels of `schedule`, end where the stock pipeline ends."""
    view, steps = tiny.view(family), 4
    pipe, noise, given = view.pipeline, random(2, *view.latent_shape), view.condition(["a dog", "moon"])
    text = {
        "prompt_embeds": given.states,
        "pooled_prompt_embeds": given.pooled,
        "height": 16,
        "width": 16,
        "num_inference_steps": steps,
    }
    if family == "flux":
        end = unpack_latents(
            pipe(**text, latents=pack_latents(noise), guidance_scale=3.5, output_type="latent").images, 4, 4
        )
    else:
        end = pipe(**text, latents=noise, guidance_scale=1.0, output_type="latent").images
    timesteps, x = pipe.scheduler.timesteps, noise
    levels = [*(view.schedule._at(t, x[:1])[1].item() for t in timesteps), 0.0]
    assert levels[0] == 1.0
    for t, now, after in zip(timesteps, levels, levels[1:], strict=False):
        x = x + (after - now) * view.denoise(x, t, given)
    assert torch.allclose(x, end, atol=1e-5)
    assert not torch.allclose(x, noise, atol=0.1)


@families
def test_denoise_is_differentiable_in_what_it_reads(family) -> None:
    view = tiny.shared(family)
    given = view.condition(["a dog", "moon"])
    latents = random(2, *view.latent_shape).requires_grad_()
    out = view.denoise(latents, torch.tensor([100, 900]), given)
    gradients = torch.autograd.grad(
        out.square().sum(), [latents, given.states, given.pooled, *view.text_maps().values()]
    )
    assert out.shape == latents.shape
    assert all(g.abs().sum() > 0 for g in gradients)


def drawn(view, text, guidance_scale: float, noise: torch.Tensor) -> torch.Tensor:
    return view.sample(text, noise, 3, guidance_scale)


@families
def test_sample_is_the_pipeline_with_its_own_guidance(family) -> None:
    """SD3 is guided by the empty text; a distilled FLUX is told the scale."""
    view = tiny.view(family, torch.float32)
    noise, prompts = random(2, 4, 8, 8, dtype=torch.float32), ["a dog", "moon"]
    latents = pack_latents(noise) if family == "flux" else noise
    found = {}
    for scale in (1.0, 5.0):
        theirs = view.pipeline(
            prompts, latents=latents, height=16, width=16, num_inference_steps=3, guidance_scale=scale, output_type="pt"
        ).images
        found[scale] = drawn(view, prompts, scale, noise)
        assert found[scale].shape == (2, 3, 16, 16)
        assert torch.allclose(found[scale], theirs, atol=1e-5)
        with torch.no_grad():
            assert torch.allclose(drawn(view, view.condition(prompts), scale, noise), theirs, atol=1e-5)
    assert not torch.allclose(found[1.0], found[5.0], atol=1e-4)


def test_an_undistilled_flux_is_guided_by_the_empty_text() -> None:
    pipe = tiny.pipeline("flux", distilled=False)
    view, noise = FluxView.from_pipeline(pipe), random(1, 4, 8, 8, dtype=torch.float32)
    shape = {"latents": pack_latents(noise), "height": 16, "width": 16, "num_inference_steps": 3, "output_type": "pt"}
    plain = pipe("a dog", **shape).images
    guided = pipe("a dog", negative_prompt="", true_cfg_scale=4.0, **shape).images
    assert torch.allclose(drawn(view, ["a dog"], 1.0, noise), plain, atol=1e-5)
    assert torch.allclose(drawn(view, ["a dog"], 4.0, noise), guided, atol=1e-5)
    assert not torch.allclose(plain, guided, atol=1e-4)


@families
def test_a_picture_knows_nothing_of_its_neighbours(family) -> None:
    view, noise = tiny.view(family, torch.float32), random(2, 4, 8, 8, dtype=torch.float32)
    assert torch.allclose(
        drawn(view, ["a dog", "moon"], 4.0, noise)[1:], drawn(view, ["moon"], 4.0, noise[1:]), atol=1e-5
    )


@families
def test_latents_are_shifted_and_scaled(family) -> None:
    view, pictures = (
        tiny.shared(family),
        torch.rand(2, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0)),
    )
    vae = view.modules("vae")
    with torch.no_grad():
        latents = encode_images(view, pictures)
        assert torch.allclose(latents, (vae.encode(pictures * 2 - 1).latent_dist.mean - 0.06) * 1.5, atol=1e-12)
        assert torch.allclose(
            decode_latents(view, latents), (vae.decode(latents / 1.5 + 0.06).sample / 2 + 0.5).clamp(0, 1), atol=1e-12
        )
