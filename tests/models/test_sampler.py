"""The sampler's latents are the stock pipeline's, and its callbacks, gradients and errors are what they say."""

from functools import cache, partial

import pytest
import torch
from torch.nn import functional as F

from tests import tiny
from unconcept.core.errors import SettingsError
from unconcept.models.diffusion.callbacks import SamplingCallbacks, callbacks_on
from unconcept.models.diffusion.packed_latents import pack_latents, unpack_latents
from unconcept.models.diffusion.sampler import LoopOptions, Sampler, is_guidance_distilled, step_generators
from unconcept.models.diffusion.schedulers import SAMPLERS, named_scheduler
from unconcept.models.views import view_of_pipeline

PROMPTS = ["a dog", "moon"]
BUILDERS = {family: partial(tiny.pipeline, family) for family in tiny.PIPELINES}
BUILDERS["flux undistilled"] = partial(tiny.pipeline, "flux", distilled=False)
FLOWS = ("sd3", "flux", "flux undistilled", "chroma", "zimage", "flux2", "flux2_klein", "qwenimage")
GRID = [(family, name) for family in BUILDERS for name in (None, *(("euler",) if family in FLOWS else SAMPLERS))]
FAST = [
    *((family, None) for family in BUILDERS),
    *(("sd1", name) for name in SAMPLERS if name != "ddim"),
    ("sd2", "dpm"),
    ("sdxl", "lcm"),
]


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def generators(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(100 + i) for i in range(count)]


def stock(pipe, noise, steps, scale, prompts=PROMPTS, **more):
    """Latents of the stock pipeline."""
    kind = type(pipe).__name__
    is_flux, is_patched = kind == "FluxPipeline", kind.startswith("Flux2")
    is_qwen = kind.startswith("QwenImage")
    is_packed = is_flux or is_qwen or kind.startswith("Chroma")
    given = {"guidance_scale": scale - 1 if kind == "ZImagePipeline" else scale}
    if is_flux and not pipe.transformer.config.guidance_embeds:
        given = {"true_cfg_scale": scale, "negative_prompt": ""}
    if is_qwen:
        given = {"true_cfg_scale": scale, "negative_prompt": [" "] * len(noise) if scale > 1 else None}
    if kind.startswith("PixArt"):
        given |= {"use_resolution_binning": False, "clean_caption": False}
    side = noise.shape[-1] * pipe.vae_scale_factor * (2 if is_patched else 1)
    latents = pack_latents(noise) if is_packed else noise
    asked = {"num_inference_steps": steps, "output_type": "latent", "height": side, "width": side}
    given |= {"latents": latents, "generator": generators(len(noise))}
    found = pipe(prompt=list(prompts), **given, **asked, **more).images
    if is_patched and found.ndim == 3:  # Of dev's pipeline they are the loop's own, packed.
        return found.transpose(1, 2).unflatten(2, noise.shape[-2:])
    if is_patched:
        mean, variance = (part.view(1, -1, 1, 1) for part in (pipe.vae.bn.running_mean, pipe.vae.bn.running_var))
        return (F.pixel_unshuffle(found, 2) - mean) / torch.sqrt(variance + pipe.vae.config.batch_norm_eps)
    return unpack_latents(found, noise.shape[-2] // 2, noise.shape[-1] // 2) if is_packed else found


@cache
def built(family):
    """One pipeline in float32 for all comparisons, which leave it as it was."""
    return BUILDERS[family]()


def compare(family, name, steps, scale) -> None:
    pipe = built(family)
    view, own = view_of_pipeline(pipe), pipe.scheduler
    noise = random(2, *view.latent_shape)
    sampler = Sampler(view, steps, name)
    with torch.no_grad():
        guidance = view.guide(PROMPTS, scale)
    ours = sampler.denoise(sampler.initial_latents(noise), guidance, options=LoopOptions(generators(2)))
    assert view.modules("scheduler") is own
    if name is not None:
        pipe.scheduler = named_scheduler(name, own)
    try:
        theirs = stock(pipe, noise, steps, scale)
    finally:
        pipe.scheduler = own
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-5), (ours - theirs).abs().max()
    assert not torch.allclose(ours, noise, atol=1e-3)


@pytest.mark.parametrize(("family", "name"), FAST)
def test_latents_are_the_stock_pipelines(family, name) -> None:
    compare(family, name, 4, 5.0)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "name"), GRID)
def test_latents_are_the_stock_pipelines_everywhere(family, name) -> None:
    fewest = 4 if name == "pndm" else 1
    for steps, scale in ((fewest, 1.0), (fewest, 5.0), (7, 1.0), (7, 3.0), (20, 5.0)):
        compare(family, name, steps, scale)


@pytest.mark.parametrize(
    ("family", "config"),
    [
        ("flux", {"use_dynamic_shifting": False, "shift": 1.0}),  # schnell
        ("sd3", {"use_dynamic_shifting": True, "shift": 1.0}),  # 3.5 medium
    ],
)
def test_timesteps_of_published_flows_are_the_stock_pipelines(family, config) -> None:
    """Of latents of another size too, by which they are shifted."""
    pipe = BUILDERS[family]()
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, **config)
    view, noise = view_of_pipeline(pipe), random(2, 4, 6, 6)
    sampler = Sampler(view, 4, shape=(4, 6, 6))
    with torch.no_grad():
        ours = sampler.denoise(noise, view.guide(PROMPTS, 3.0))
        assert torch.allclose(ours, stock(pipe, noise, 4, 3.0), rtol=0, atol=1e-5)
    assert torch.equal(pipe.scheduler.timesteps, sampler.timesteps)


def test_which_models_read_their_guidance() -> None:
    assert all(is_guidance_distilled(tiny.shared(family)) for family in ("flux", "flux2"))
    assert not any(
        is_guidance_distilled(tiny.shared(family))
        for family in (*tiny.FAMILIES, "sd3", "pixart", "chroma", "flux2_klein")
    )


def test_a_consistency_model_reads_its_guidance() -> None:
    """LCM's UNet of SD 1.x, as in the stock pipeline: no negative side, and the scale as an input."""
    pipe = tiny.pipeline("sd1")
    torch.manual_seed(0)
    pipe.register_modules(unet=tiny.unet(32, time_cond_proj_dim=8).eval())
    view, noise = view_of_pipeline(pipe), random(2, 4, 8, 8)
    pipe.scheduler = named_scheduler("lcm", pipe.scheduler)
    sampler, found = Sampler(view, 4), []
    with torch.no_grad():
        for scale in (1.0, 8.0):
            found.append(sampler.denoise(noise, view.guide(PROMPTS, scale), options=LoopOptions(generators(2))))
            assert torch.allclose(found[-1], stock(pipe, noise, 4, scale), rtol=0, atol=1e-5)
        assert torch.allclose(view.denoise(noise, torch.tensor(3), view.condition(PROMPTS)), at_default(view, noise))
    assert not torch.allclose(*found, atol=1e-3)


def at_default(view, noise):
    return view.guide(PROMPTS, 7.5).predict(view, noise, torch.tensor(3))


def loop(view, name=None, steps=5, scale=3.0):
    sampler = Sampler(view, steps, name)
    with torch.no_grad():
        guidance = view.guide(PROMPTS, scale)
    return sampler, guidance, random(2, *view.latent_shape, dtype=view.dtype)


@pytest.mark.parametrize("family", tiny.PIPELINES)
def test_a_loop_can_stop_and_go_on(family) -> None:
    sampler, guidance, x = loop(tiny.shared(family), "ddim" if family not in FLOWS else None)
    whole = sampler.denoise(x, guidance)
    assert torch.equal(sampler.denoise(sampler.denoise(x, guidance, 0, 2), guidance, 2), whole)
    assert sampler.denoise(x, guidance, 3, 3) is x


@pytest.mark.parametrize("name", ["lcm", "euler-ancestral"])
def test_a_pictures_noise_is_its_own(name) -> None:
    """Drawn alone or beside another, with generators and without."""
    view = tiny.shared("sd1")
    sampler, guidance, x = loop(view, name)
    alone = type(guidance)(guidance.texts.rows([1, 3]), guidance.scale)
    for given in (None, generators(2)):
        options = LoopOptions(given)
        both = sampler.denoise(x, guidance, options=options)
        one = LoopOptions(None if given is None else generators(2)[1:])
        assert torch.allclose(sampler.denoise(x[1:], alone, options=one), both[1:], atol=1e-8)
    assert step_generators(x)[0].initial_seed() != step_generators(x)[1].initial_seed()


def test_ddim_with_ddpms_noise_is_stochastic() -> None:
    view = tiny.shared("sd1")
    sampler, guidance, x = loop(view, "ddim")
    noisy = Sampler(view, 5, "ddim", eta=1.0)
    drawn = [noisy.denoise(x, guidance, options=LoopOptions(generators(2))) for _ in range(2)]
    assert torch.equal(*drawn)
    assert not torch.allclose(drawn[0], sampler.denoise(x, guidance), atol=1e-3)


def test_callbacks_replace_latents_and_predictions() -> None:
    """`after` sets to zero what `before` finds; a constant prediction makes the loop linear in its start."""
    view, seen = tiny.shared("sd1"), []
    sampler, guidance, x = loop(view)

    def before(at):
        seen.append((at.k, int(at.t), at.prediction))
        assert at.k == 0 or not at.latents.any()
        return at.latents + 1

    def predicted(at):
        assert torch.equal(at.prediction, guidance.predict(view, at.scale_input(at.latents), at.t))
        return torch.zeros_like(at.prediction)

    calls = SamplingCallbacks(before, predicted, lambda at: 0 * at.latents if at.k < 4 else None)
    found = sampler.denoise(x, guidance, options=LoopOptions(callbacks=calls))
    assert seen == [(k, int(t), None) for k, t in enumerate(sampler.timesteps)]
    one = torch.ones_like(x)
    zero = SamplingCallbacks(predicted=lambda at: torch.zeros_like(at.prediction))
    assert torch.allclose(found, sampler.denoise(one, guidance, 4, 5, LoopOptions(callbacks=zero)))


def test_a_callback_that_returns_none_keeps_what_another_replaced() -> None:
    sampler, guidance, x = loop(tiny.shared("sd1"))
    zero = SamplingCallbacks(predicted=lambda at: torch.zeros_like(at.prediction))
    alone = sampler.denoise(x, guidance, options=LoopOptions(callbacks=zero))
    seen = []
    watching = SamplingCallbacks(predicted=lambda at: seen.append(at.prediction))
    with callbacks_on(tiny.shared("sd1").modules("denoiser"), zero):
        beside = sampler.denoise(x, guidance, options=LoopOptions(callbacks=watching))
    assert torch.equal(beside, alone)
    assert not torch.stack(seen).any()


@pytest.mark.parametrize("place", ["before", "predicted", "after"])
@pytest.mark.parametrize(
    ("wrong", "said"), [("nan", "NaN or infinity at step 2"), ("shape", r"\(1, 4, 8, 8\) at step 2")]
)
def test_what_a_callback_must_not_return(place, wrong, said) -> None:
    sampler, guidance, x = loop(tiny.shared("sd1"))

    def bad(at):
        found = at.latents.clone()
        found[0, 0, 0, 0] = float("nan")
        return None if at.k != 2 else found if wrong == "nan" else at.latents[:1]

    with pytest.raises(SettingsError, match=f"the callback '{place}' returned {said}"):
        sampler.denoise(x, guidance, options=LoopOptions(callbacks=SamplingCallbacks(**{place: bad})))


@pytest.mark.parametrize("family", ["sd1", "pixart"])
def test_gradients_of_all_steps_or_of_one(family) -> None:
    """Against the loop written out, with the predictions of the other steps as constants."""
    view = tiny.shared(family)
    sampler, guidance, x = loop(view, "ddim", steps=3)
    levels = torch.cat([view.schedule.alpha[sampler.timesteps] ** 2, torch.tensor([float(_final(view))])])

    def written_out(start, which):
        for k, t in enumerate(sampler.timesteps):
            with torch.set_grad_enabled(which in ("all", k)):
                said = guidance.predict(view, start, t)
            a, b = levels[k], levels[k + 1]
            said = view.schedule.epsilon(said, start, t[None])
            start = b.sqrt() * (start - (1 - a).sqrt() * said) / a.sqrt() + (1 - b).sqrt() * said
        return start

    for which in ("all", 0, 2):
        start, mine = x.clone().requires_grad_(), x.clone().requires_grad_()
        end = sampler.denoise(start, guidance, options=LoopOptions(gradient=which))
        (theirs,) = torch.autograd.grad(written_out(mine, which).square().sum(), mine)
        (ours,) = torch.autograd.grad(end.square().sum(), start)
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max())), which
    assert not sampler.denoise(x.clone().requires_grad_(), guidance).requires_grad


def _final(view):
    return named_scheduler("ddim", view.modules("scheduler")).final_alpha_cumprod


def test_bad_input_is_one_line() -> None:
    view = tiny.shared("sd1")
    sampler, guidance, x = loop(view)
    for begin, stop in ((-1, 2), (3, 2), (0, 6)):
        with pytest.raises(SettingsError, match=f"from step {begin} to {stop}: give 0 <= first <= last <= 5"):
            sampler.denoise(x, guidance, begin, stop)
    with pytest.raises(SettingsError, match="1 generators for 2 pictures"):
        sampler.denoise(x, guidance, options=LoopOptions(generators(1)))
    with pytest.raises(SettingsError, match="1001 sampler steps: give 1 to 1000"):
        Sampler(view, 1001)
    with pytest.raises(SettingsError, match="60 sampler steps are not possible with LCMScheduler"):
        Sampler(view, 60, "lcm")
    with pytest.raises(SettingsError, match="sampler 'dpm' is not defined for sd3 models: leave it out, or give euler"):
        Sampler(tiny.shared("sd3"), 4, "dpm")
