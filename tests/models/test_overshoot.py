"""Overshooting samplers of flow models against their card, on a Gaussian and on tiny models."""

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from tests import tiny
from tests.models.test_sampler import generators, random
from unconcept.core.errors import RequestError, SettingsError
from unconcept.models.diffusion.overshoot import OvershootStepper, attention_overshoot
from unconcept.models.diffusion.sampler import LoopOptions, Sampler
from unconcept.models.text.state_rows import quoted_states, word_states

TEXTS = ['a sign "dog"', 'moon "hat" by "sun"']


def stepper(steps: int, c: float, **more: object) -> OvershootStepper:
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(sigmas=torch.linspace(1, 1 / steps, steps).tolist())
    return OvershootStepper(scheduler, c=c, **more)


def drawn_noise(like: torch.Tensor, seed: int) -> torch.Tensor:
    return torch.stack([torch.randn(like.shape[1:], generator=torch.Generator().manual_seed(seed))]).to(like)


@pytest.mark.parametrize("c", [0.0, 0.5, 2.0, 5.0])
def test_data_and_noise_keep_their_shares(c) -> None:
    """With the exact velocity of one picture, x is t' data + (1 - t') noise, of which a(1 - o) is the old noise."""
    run, data, old = stepper(8, c), random(1, 4, 8, 8), random(1, 4, 8, 8, seed=1)
    for k in range(8):
        now, after = (1 - float(run.scheduler.sigmas[i]) for i in (k, k + 1))
        over = min(after + c * (after - now), 1.0)
        x = now * data + (1 - now) * old
        found = run.step(x, old - data, k, [torch.Generator().manual_seed(k)])
        kept = after / over * (1 - over)
        assert kept == pytest.approx(after / over - after, abs=1e-7)
        fresh = max((1 - after) ** 2 - kept**2, 0) ** 0.5
        assert torch.allclose(found, after * data + kept * old + fresh * drawn_noise(x, k), atol=2e-4)
        if k == 7:
            assert torch.allclose(found, data, atol=1e-6)


@pytest.mark.parametrize(("steps", "c", "variance"), [(20, 0, 0.216), (20, 1, 0.179), (20, 2, 0.148), (100, 2, 0.221)])
def test_the_variance_of_a_gaussian_is_the_cards(steps, c, variance) -> None:
    """Data of variance 1/4 under the exact velocity: the error falls like 1 / steps, and grows with c."""
    run = stepper(steps, c)
    x = random(1, 1, 500, 400)
    for k in range(steps):
        t = 1 - float(run.scheduler.sigmas[k])
        velocity = (0.25 * t - (1 - t)) / (0.25 * t**2 + (1 - t) ** 2) * x
        x = run.step(x, -velocity, k, [torch.Generator().manual_seed(k)])
    assert float(x.var()) == pytest.approx(variance, abs=0.003)


def test_no_mask_is_eulers_step() -> None:
    """In the region where it is 0, and for any spread of the levels; nothing is NaN."""
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 4:] = 1
    run, x, said = stepper(5, 2.0, mask=mask), random(1, 4, 8, 8), random(1, 4, 8, 8, seed=1)
    for k in range(5):
        found = run.step(x, said, k, generators(1))
        euler = x + (run.scheduler.sigmas[k + 1] - run.scheduler.sigmas[k]) * said
        assert torch.isfinite(found).all()
        assert torch.allclose(found[..., :4], euler[..., :4], atol=1e-6)
        assert k == 4 or not torch.allclose(found[..., 4:], euler[..., 4:], atol=1e-2)


@pytest.mark.parametrize("family", tiny.MMDITS)
@torch.no_grad()
def test_sampling_makes_no_further_call(family) -> None:
    """Both samplers; none overshoots at c = 0, nor where a prompt has no word to write."""
    view, calls = tiny.view(family, torch.float32), []
    view.modules("denoiser").register_forward_pre_hook(lambda *_, **__: calls.append(1), with_kwargs=True)
    x, euler = random(2, *view.latent_shape), Sampler(view, 5)
    plain = euler.denoise(x, view.guide(TEXTS, 3.0))
    assert len(calls) == 5
    for name in ("overshoot", "amo"):
        options = LoopOptions(generators(2), focus=quoted_states(view, TEXTS))
        found = []
        for c in (0.0, 2.0):
            del calls[:]
            found.append(Sampler(view, 5, name, overshoot=c).denoise(x, view.guide(TEXTS, 3.0), options=options))
            assert len(calls) == 5
        assert torch.allclose(found[0], plain, atol=1e-5)
        assert not torch.allclose(found[1], plain, atol=1e-2)
    unquoted = ["a sign", TEXTS[1]]
    options = LoopOptions(generators(2), focus=quoted_states(view, unquoted))
    half = Sampler(view, 5, "amo").denoise(x, view.guide(unquoted, 3.0), options=options)
    wanted = euler.denoise(x, view.guide(unquoted, 3.0))
    assert torch.allclose(half[0], wanted[0], atol=1e-5)
    assert not torch.allclose(half[1], wanted[1], atol=1e-2)


def test_the_mask_is_the_words_attention() -> None:
    """Of two rows beside two negatives: rescaled to 0 to 1 in each, and 0 for a row without words."""
    maps = [
        torch.rand(4, 3, 16, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) for seed in (0, 1)
    ]
    focus = torch.tensor([[True, False, True, False, False], [False] * 5])
    found = attention_overshoot(maps, focus, (8, 8))
    mean = sum(each[2].mean(0)[:, [0, 2]].mean(1) for each in maps) / 2
    small = ((mean - mean.min()) / (mean.max() - mean.min())).view(1, 1, 4, 4)
    assert torch.allclose(found[:1], torch.nn.functional.interpolate(small, (8, 8), mode="bilinear"))
    assert not found[1].any()
    assert found.shape == (2, 1, 8, 8)


@pytest.mark.parametrize("family", tiny.PIPELINES)
def test_words_are_where_the_denoiser_reads_them(family) -> None:
    """The states at a word's positions are those that its prompt shares with no other before it."""
    view = tiny.shared(family)
    at = word_states(view, "a dog face", "dog")
    length = 24 if family in ("sd1", "sd2", "sdxl") else view.condition([""]).states.shape[1]
    after_space, in_chat = [2, 3, 4, 5], [5, 6, 7]
    tokens = {"sd3": [2, 3, 4, 26, 27, 28, 29], "flux": after_space, "pixart": after_space, "chroma": after_space}
    tokens |= {"zimage": in_chat, "flux2_klein": in_chat, "flux2": [503, 504, 505], "qwenimage": [1, 2, 3]}
    assert at == tokens.get(family, [2, 3, 4])
    focus = quoted_states(view, ['a "dog" by a sun', "a dog"])
    assert focus.shape == (2, length)
    assert not focus[1].any()
    with pytest.raises(RequestError, match="'a dog' does not contain 'cat'"):
        word_states(view, "a dog", "cat")


def test_bad_input_is_one_line() -> None:
    view = tiny.shared("sd3")
    x, guidance = random(1, 4, 8, 8, dtype=torch.float64), view.guide(["a"], 1.0)
    with pytest.raises(SettingsError, match=r"overshoot -1: give 0 \(Euler's steps\) or more"):
        Sampler(view, 4, "amo", overshoot=-1)
    with pytest.raises(SettingsError, match="sampler 'amo' needs the words to write: sample from texts"):
        Sampler(view, 4, "amo").denoise(x, guidance)
    with pytest.raises(SettingsError, match="an overshooting step needs generators: leave residuals out"):
        Sampler(view, 4, "overshoot").denoise(x, guidance, options=LoopOptions(residuals=x.expand(4, *x.shape)))
    with pytest.raises(SettingsError, match="sampler 'amo' is not defined for sd1 models: leave it out, or give ddim"):
        tiny.shared("sd1").sample(["a"], x, 2, 1.0, "amo")
