"""Other samplers, steps and guidance: what each attempt changes, and what a model cannot do is left out."""

from dataclasses import replace

import pytest

from tests.attacks.cases import case
from unconcept.attacks import attacks
from unconcept.attacks.sampling import Sampling
from unconcept.core.errors import SettingsError
from unconcept.models.diffusion.few_step import FewStepRecord
from unconcept.models.diffusion.procedures.sampling_change import SamplingChange

CONTRACT_SETTINGS = {"samplers": ["euler-ancestral", "overshoot"], "step_factors": [2.0], "guidance_factors": [2.0]}


def changes(asked, attack: Sampling) -> dict[int, SamplingChange | None]:
    return {attempt.steps: attempt.inputs[0].sampling for attempt in attack.search(asked)}


@pytest.mark.parametrize(("family", "left_out"), [("sd1", 2), ("flux", 1)])
def test_one_thing_at_a_time_and_samplers_of_the_models_kind_alone(family, left_out) -> None:
    found = changes(case(family), Sampling(("dpm", "overshoot"), (0.5, 3.0), (2.0,)))
    wanted = {
        0: None,
        1: SamplingChange(sampler="dpm"),
        2: SamplingChange(sampler="overshoot"),
        3: SamplingChange(steps=1),
        4: SamplingChange(steps=6),
        5: SamplingChange(guidance_scale=6.0),
    }
    del wanted[left_out]
    assert found == wanted


def test_a_model_of_few_steps_keeps_to_its_record() -> None:
    view = case("sd1").model
    asked, before = replace(case("sd1"), steps=2), view.few_step
    try:
        view.few_step = FewStepRecord({1: (999.0,), 2: (999.0, 499.0)}, "renoise", "none")
        found = changes(asked, Sampling(("dpm",), (0.5, 3.0), (0.1, 2.0)))
    finally:
        view.few_step = before
    assert found == {0: None, 2: SamplingChange(steps=1), 4: SamplingChange(guidance_scale=0.1 * asked.guidance_scale)}


def test_its_rungs_share_no_change() -> None:
    sampler, sliders = (
        Sampling(**{name: tuple(value) for name, value in own.items()}) for own in attacks["sampling"].rungs.values()
    )
    assert sampler.samplers
    assert sliders.step_factors
    assert sampler.most_steps + sliders.most_steps == Sampling().most_steps


@pytest.mark.parametrize("wrong", [{"samplers": ("dmp",)}, {"step_factors": (0.0,)}, {"guidance_factors": (-1.0,)}])
def test_what_cannot_be_tried_is_named(wrong) -> None:
    with pytest.raises(SettingsError, match=f"sampling: {next(iter(wrong))}"):
        Sampling(**wrong)
