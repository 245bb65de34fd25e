"""Models of few steps: what their record allows, and the sampler that renoises as SiD's generator."""

import json

import pytest
import torch

from tests import tiny
from tests.cli.test_cli import run
from tests.models.test_sampler import generators, random
from unconcept.core.errors import ModelError, SettingsError
from unconcept.evaluation.sampling import spec_for
from unconcept.jobs.plans.timing import time_drawing
from unconcept.models import open_model
from unconcept.models.diffusion.few_step import FewStepRecord, few_step_record
from unconcept.models.diffusion.sampler import LoopOptions, Sampler

SID = FewStepRecord({1: (625,), 2: (625, 312), 4: (625, 468, 312, 156)}, "renoise", "none")


def few_step(record, family="sd1"):
    view = tiny.view(family)
    view.few_step = record
    return view


@pytest.mark.parametrize("steps", [1, 4])
@torch.no_grad()
def test_renoising_is_sids_generator(steps) -> None:
    """D = 0; then x = add_noise(D, fresh noise, t) and D = predicted clean latents, n times."""
    view, inputs = few_step(SID), []
    view.modules("denoiser").register_forward_pre_hook(
        lambda module, args, kwargs: inputs.append((args[0], int(args[1]))), with_kwargs=True
    )
    noise, guidance, rngs = random(2, 4, 8, 8, dtype=torch.float64), view.guide(["a dog", "moon"], 1.0), generators(2)
    sampler = Sampler(view, steps)
    found = sampler.denoise(sampler.initial_latents(noise), guidance, options=LoopOptions(generators(2)))
    assert [t for _, t in inputs] == list(SID.timesteps[steps])
    signal = view.checkpoint.built_pipeline.scheduler.alphas_cumprod.double()
    assert torch.allclose(inputs[0][0], (1 - signal[625]).sqrt() * noise)
    clean, fresh = torch.zeros_like(noise), noise
    for t in SID.timesteps[steps]:
        x = signal[t].sqrt() * clean + (1 - signal[t]).sqrt() * fresh
        clean = (x - (1 - signal[t]).sqrt() * view.denoise(x, torch.tensor(t), guidance.texts)) / signal[t].sqrt()
        fresh = torch.stack([torch.randn(noise.shape[1:], generator=rng) for rng in rngs]).double()
    assert torch.allclose(found, clean, rtol=1e-5, atol=1e-6)


def test_what_a_record_forbids_is_one_line() -> None:
    view, noise = few_step(SID), random(1, 4, 8, 8, dtype=torch.float64)
    assert view.sample(["a dog"], noise, 2, 1.0).shape == (1, 3, 16, 16)
    for wrong, said in (
        ((3, 1.0), "3 sampler steps: the record of tiny-sd1 allows 1, 2, 4"),
        ((2, 7.5), "guidance scale 7.5: tiny-sd1 takes no guidance, says its record: give 1"),
        ((2, 1.0, "dpm"), "sampler 'dpm': tiny-sd1 has few steps, and its record allows its own alone: leave it out"),
    ):
        with pytest.raises(SettingsError, match=said):
            view.sample(["a dog"], noise, *wrong)


def test_integrating_needs_the_records_timesteps() -> None:
    """SDXL-Lightning's: a trailing spacing draws, a leading one is refused."""
    view = few_step(FewStepRecord({4: (999, 749, 499, 249)}, "integrate", "none"), "sdxl")
    noise = random(1, 4, 8, 8, dtype=torch.float64)
    with pytest.raises(ModelError, match=r"timesteps \[751, 501, 251, 1\] are not its record's \[999.0"):
        view.sample(["a dog"], noise, 4, 1.0)
    pipe = view.checkpoint.built_pipeline
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, timestep_spacing="trailing")
    assert Sampler(view, 4).timesteps.tolist() == [999, 749, 499, 249]
    assert view.sample(["a dog"], noise, 4, 1.0).shape == (1, 3, 16, 16)


def test_a_folder_has_its_record(tmp_path) -> None:
    folder = tiny.folder("sd1", tmp_path / "m")
    assert few_step_record(folder) is None
    record = {"timesteps": {"2": [625, 312]}, "step": "renoise", "guidance": "none"}
    (folder / "few_step.json").write_text(json.dumps(record))
    view = open_model(str(folder), "cpu")
    assert view.few_step == FewStepRecord({2: (625, 312)}, "renoise", "none")
    spec = spec_for(str(folder))
    assert (spec.steps, spec.guidance_scale) == (2, 1.0)
    assert time_drawing(view, spec, 1).of_one_step > 0
    assert run("sample", "a dog", "--model", folder, "--out", tmp_path / "o").exit_code == 0
    wrong = run("sample", "a dog", "--model", folder, "--steps", 3, "--out", tmp_path / "p")
    assert (wrong.exit_code, len(wrong.stderr.strip().splitlines())) == (2, 1)
    for wrong, said in (
        (record | {"step": "jump"}, "its step is wrong"),
        (record | {"timesteps": {"2": [312, 625]}}, "as many falling timesteps"),
        (record | {"timesteps": {}}, "as many falling timesteps"),
        ({"step": "renoise"}, "its timesteps is wrong"),
        ([], "its content is wrong"),
    ):
        (folder / "few_step.json").write_text(json.dumps(wrong))
        with pytest.raises(ModelError, match=said):
            few_step_record(folder)
