"""Enlarged noise against its card, on tiny models."""

from dataclasses import replace

import pytest
import torch
from diffusers import DDIMScheduler

from tests.attacks.cases import case
from unconcept.attacks.trajectory_noise import TrajectoryNoise
from unconcept.models.diffusion.procedures.enlarged_noise import EnlargedNoise, step_levels
from unconcept.models.diffusion.procedures.registry import SamplingRequest
from unconcept.models.diffusion.sampler import LoopOptions, Sampler
from unconcept.models.diffusion.vae import finish_pictures

CONTRACT_SETTINGS = {"eta": [1.0, 1.5], "variance_scales": [1.02]}
STEPS = 4


def sampled(asked, eta: float, v: float = 1.0, seed: int = 3) -> torch.Tensor:
    procedure = EnlargedNoise(torch.tensor([seed]), eta, v)
    texts = asked.model.condition(["a dog"])
    return procedure.sample(asked.model, SamplingRequest(texts, asked.noise[:1], STEPS, 3.0))


def test_without_noise_it_is_ddim_whatever_v_is() -> None:
    asked = case("sd1")
    assert torch.equal(sampled(asked, 0.0, 1.04), asked.model.sample(["a dog"], asked.noise[:1], STEPS, 3.0, "ddim"))


@pytest.mark.parametrize("family", ["sd1", "sd2"])
def test_ddpms_share_is_the_stock_schedulers(family) -> None:
    """eta 1, v 1, with the same noise at each step."""
    asked = case(family)
    model, rng = asked.model, torch.Generator().manual_seed(3)
    loop = Sampler(model, STEPS, "ddim", eta=1.0)
    with torch.no_grad():
        x = loop.denoise(asked.noise[:1], model.guide(["a dog"], 3.0), options=LoopOptions([rng]))
    assert torch.allclose(sampled(asked, 1.0), finish_pictures(model, x), atol=1e-4)


def test_the_rule_written_out_for_one_step_of_either_schedule() -> None:
    rng = torch.Generator().manual_seed(0)
    x, said, fresh = (torch.randn(1, 4, 8, 8, generator=rng) for _ in range(3))
    for family in ("sd1", "sd3"):
        model = case(family).model
        name = None if family == "sd3" else "ddim"
        loop = Sampler(model, STEPS, name)
        (a, s), (b, r) = step_levels(model, loop, STEPS)[1]
        if family == "sd3":
            assert (a, s) == pytest.approx((1 - float(loop.timesteps[1]) / 1000, float(loop.timesteps[1]) / 1000))
            assert r == pytest.approx(float(loop.timesteps[2]) / 1000)
            clean, noise = x - s * said, x + a * said
        else:
            clean, noise = (x - s * said) / a, said
        deviation = 1.5 * r / s * (s * s - (a / b * r) ** 2) ** 0.5
        expected = b * clean + abs(r * r - deviation**2) ** 0.5 * noise + 1.03 * deviation * fresh
        given = EnlargedNoise(torch.tensor([0]), 1.5, 1.03)
        found = given._step(model, x, said, loop.timesteps[1], ((a, s), (b, r)), fresh)
        assert torch.allclose(found, expected, atol=1e-5)
        assert step_levels(model, loop, STEPS)[-1][1][1] < 0.1, "the last step ends at the picture"


def test_the_last_step_of_ddim_ends_where_its_scheduler_says() -> None:
    asked = case("sd1")
    assert isinstance(asked.model.modules("scheduler"), DDIMScheduler)
    final = float(asked.model.modules("scheduler").final_alpha_cumprod)
    assert step_levels(asked.model, Sampler(asked.model, STEPS, "ddim"), STEPS)[-1][1][0] == pytest.approx(final**0.5)


def test_a_picture_depends_on_its_own_prompt_noise_eta_and_v() -> None:
    """Neither on the other prompts nor on the order; another initial noise gives another seed."""
    asked = case("sd1")
    all_seeds = {}
    for one in TrajectoryNoise((1.0, 1.5), (1.0, 1.1), has_control=False).search(asked):
        all_seeds |= {(one.steps, i): int(given.sampling.seeds) for i, given in one.inputs.items() if given.sampling}
    assert len({*all_seeds.values()}) == 12
    alone = replace(asked, prompts=asked.prompts[1:2], noise=asked.noise[1:2])
    *_, last = TrajectoryNoise((1.0, 1.5), (1.0, 1.1), has_control=False).search(alone)
    assert int(last.inputs[0].sampling.seeds) == all_seeds[4, 1]


def test_the_control_searches_to_its_own_end() -> None:
    """A control that stopped where the attack does would show the concept more rarely than chance lets the attack."""
    asked = case("sd1")
    asked.solved.update({0, 1, 2})
    controls = [one for one in TrajectoryNoise((1.0, 1.5), (1.0, 1.1)).search(asked) if one.control]
    assert [sorted(one.inputs) for one in controls] == [[0, 1, 2]] * 4
    unedited = TrajectoryNoise((1.0, 1.5), (1.0, 1.1)).search(case("sd1", edited=False))
    assert not [one for one in unedited if one.control], "nobody reads what a ceiling's would be"


def test_other_texts_are_drawn_as_often_with_the_same_noise() -> None:
    _, control, tried, *_ = TrajectoryNoise().search(case("sd1"))
    assert control.control == "other texts, best of as many"
    assert [control.inputs[i].text for i in range(3)] == ["a fox", "a car", "sun"]
    assert control.inputs[0].sampling == tried.inputs[0].sampling
