"""Safe Latent Diffusion against its card: the loop written out, diffusers' own pipeline, and what must hold exactly."""

import warnings

import pytest
import torch
from diffusers.pipelines.deprecated.stable_diffusion_safe import StableDiffusionPipelineSafe

from tests import tiny
from unconcept.core import Request
from unconcept.core.errors import EditError, SettingsError
from unconcept.edits import GuidanceEdit, load_edit
from unconcept.linalg.safety_guidance import SafetyGate, safety_term
from unconcept.methods.sld import SLD
from unconcept.models.diffusion.sampler import LoopOptions, Sampler

CONTRACT_SETTINGS: dict[str, object] = {"warmup": 0.0}
REQUEST = Request(("dog", "cat"), ("", ""))
PROMPTS = ["a dog by a house", "a moon"]
SCALE, STEPS = 4.0, 5


def noise(view, rows=2, seed=1):
    return torch.randn(rows, *view.latent_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def drawn(view, edit=None, prompts=PROMPTS, x=None, sampler="ddim"):
    x = noise(view, len(prompts)) if x is None else x
    if edit is None:
        return Sampler(view, STEPS, sampler).denoise(x, view.guide(prompts, SCALE))
    with edit.applied(view):
        return Sampler(view, STEPS, sampler).denoise(x, view.guide(prompts, SCALE))


@torch.no_grad()
def written_out(view, x, concept, warmup, s_S, lam, s_m, beta):
    """The card's loop over DDIM's steps, each prediction by a call of its own, in noise predictions."""
    sampler = Sampler(view, STEPS, "ddim")
    levels = [float(view.schedule.alpha[t] ** 2) for t in sampler.timesteps]
    levels.append(float(view.checkpoint.built_pipeline.scheduler.final_alpha_cumprod))
    nu = torch.zeros_like(x)
    for i, t in enumerate(sampler.timesteps):

        def said(texts, x=x, t=t):
            return view.schedule.epsilon(view.denoise(x, t, view.condition(texts)), x, t[None])

        e_0, e_p, e_s = said([""] * len(x)), said(PROMPTS), said([concept] * len(x))
        scale = torch.minimum(torch.ones_like(x), s_S * (e_p - e_s).abs())
        mu = scale * (e_p - e_s < lam)
        gam = mu * (e_s - e_0) + s_m * nu
        nu = beta * nu + (1 - beta) * gam
        d = e_p - e_0
        if i >= warmup:
            d = d - gam
        e = e_0 + SCALE * d
        a, b = levels[i], levels[i + 1]
        x = b**0.5 * (x - (1 - a) ** 0.5 * e) / a**0.5 + (1 - b) ** 0.5 * e
    return x


@pytest.mark.parametrize("family", ["sd1", "sd2"])
@pytest.mark.parametrize(
    ("level", "numbers"),
    [
        ("weak", (2, 200, 0.0, 0.0, 0.0)),
        ("medium", (1, 1000, 0.01, 0.3, 0.4)),
        ("strong", (1, 2000, 0.025, 0.5, 0.7)),
        ("max", (0, 5000, 1.0, 0.5, 0.7)),
    ],
)
def test_it_is_the_papers_loop(family, level, numbers) -> None:
    """Of noise and of v predictions, whose gate is in units of noise. DDIM rounds its levels to single precision."""
    view = tiny.view(family)
    found = drawn(view, SLD(level=level).erase(view, REQUEST))
    assert torch.allclose(found, written_out(view, noise(view), "dog, cat", *numbers), atol=1e-5)
    assert not torch.allclose(found, drawn(view), atol=1e-3)


@torch.no_grad()
def test_it_is_diffusers_safe_pipeline() -> None:
    view = tiny.view("sd1")
    pipe, seen = view.checkpoint.built_pipeline, []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        safe = StableDiffusionPipelineSafe(
            pipe.vae,
            pipe.text_encoder,
            pipe.tokenizer,
            pipe.unet,
            pipe.scheduler,
            None,
            None,
            requires_safety_checker=False,
        )
        safe.safety_concept = "dog, cat"
        safe.set_progress_bar_config(disable=True)
        safe(
            PROMPTS,
            num_inference_steps=STEPS,
            guidance_scale=SCALE,
            latents=noise(view),
            output_type="np",
            sld_warmup_steps=1,
            callback=lambda i, t, latents: seen.append(latents),
        )
    found = drawn(view, SLD().erase(view, REQUEST), x=noise(view))
    assert torch.allclose(found, seen[-1], atol=1e-5)


def test_without_scales_or_in_the_warmup_it_is_plain_guidance() -> None:
    for family in ("sd1", "flux"):
        view = tiny.guided_view(family)
        plain = drawn(view, sampler=None)
        for idle in (SLD(guidance_scale=0, momentum_scale=0), SLD(warmup=1.0)):
            assert torch.equal(drawn(view, idle.erase(view, REQUEST), sampler=None), plain)


def test_a_prompt_that_is_the_concept_is_left_alone() -> None:
    """Its gate is shut. The rows of a batch are drawn alike, so that no rounding opens it."""
    view = tiny.view("sd1")
    edit = SLD(level="max").erase(view, Request(("dog",), ("",)))
    assert torch.allclose(drawn(view, edit, ["dog", "dog"]), drawn(view, None, ["dog", "dog"]), atol=1e-9)


def test_a_batch_is_its_pictures_and_a_loop_begins_anew() -> None:
    view, x = tiny.view("sd1"), noise(tiny.view("sd1"))
    edit = SLD().erase(view, REQUEST)
    with edit.applied(view):
        both, again = (drawn(view, x=x) for _ in range(2))
        alone = [drawn(view, prompts=[PROMPTS[i]], x=x[i : i + 1]) for i in (0, 1)]
    assert torch.equal(both, again)
    assert torch.allclose(both, torch.cat(alone), atol=1e-9)


def test_the_term() -> None:
    """With everything open e = e_0 + g (e_p - e_S); mu is 0 to 1, and 0 from the threshold on; beta = 1 stops nu."""
    e_0, e_p, e_s = (
        torch.randn(3, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(i)) for i in range(3)
    )
    zero = torch.zeros_like(e_0)
    term, _ = safety_term(e_p - e_s, e_s - e_0, zero, SafetyGate(1e300, 1e300, 0, 0))
    assert torch.allclose(e_0 + SCALE * (e_p - e_0 - term), e_0 + SCALE * (e_p - e_s), atol=1e-12)
    mu, _ = safety_term(e_p - e_s, torch.ones_like(e_0), zero, SafetyGate(0.7, 0.2, 0, 0))
    assert float(mu.min()) == 0
    assert float(mu.max()) <= 1
    assert torch.equal(mu == 0, e_p - e_s >= 0.2)
    assert bool((mu[e_p - e_s < -1.5] == 1).all())
    assert not safety_term(e_p - e_s, e_s - e_0, zero, SafetyGate(1000, 1, 0.5, 1.0))[1].any()


def test_it_is_refused_without_guidance(tmp_path) -> None:
    view = tiny.view("sd1")
    edit = SLD().erase(view, REQUEST)
    with edit.applied(view), pytest.raises(SettingsError, match="drawn without: give a guidance scale above 1"):
        Sampler(view, 2).denoise(noise(view), view.guide(PROMPTS, 1.0), options=LoopOptions())
    with pytest.raises(SettingsError, match="sld changes classifier-free guidance, which tiny-flux has none of"):
        SLD().erase(tiny.view("flux"), REQUEST)
    with pytest.raises(EditError, match="there is no delta"):
        edit.delta("unet.x", noise(view))
    edit.save(tmp_path / "e.safetensors")
    loaded = load_edit(tmp_path / "e.safetensors")
    assert isinstance(loaded, GuidanceEdit)
    assert (loaded.hash, loaded.rule, loaded.text) == (edit.hash, edit.rule, "dog, cat")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"warmup": 1.5}, "warmup must be 0 to 1, got 1.5"),
        ({"guidance_scale": -1.0}, "guidance_scale must be >= 0"),
        ({"momentum_scale": -1.0}, "momentum_scale must be >= 0"),
        ({"mom_beta": 2.0}, "mom_beta must be 0 to 1"),
    ],
)
def test_settings_out_of_range(wrong, said) -> None:
    with pytest.raises(SettingsError, match=said):
        SLD(**wrong)
