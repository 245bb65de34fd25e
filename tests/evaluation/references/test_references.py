"""Predictions of several models on the same noise, and relearning curves, on toy models."""

import json
from contextlib import nullcontext

import pytest
import torch

from tests import tiny
from unconcept.core.errors import DataError, RequestError
from unconcept.evaluation.references.predictions import (
    NoisedLatents,
    drawn_latents,
    predict,
    prediction_distance,
    squared_errors,
    two_way_distance,
)
from unconcept.evaluation.references.record import REFERENCE_RECORD, require_never_saw
from unconcept.evaluation.references.relearning import relearning_curve, steps_until
from unconcept.evaluation.sampling import DrawSpec
from unconcept.prompts.checks import Prompt
from unconcept.training.images.picture_tuning import PictureTuning
from unconcept.training.token_search import denoising_error

TEXTS = ("a cat", "a dog")


@pytest.fixture(scope="module")
def models():
    return tiny.view("sd1", torch.float32), tiny.view("sd1", torch.float32, seed=1)


@pytest.fixture(scope="module")
def sides(models):
    prompts = [Prompt(text, i) for i, text in enumerate(TEXTS)]
    spec = DrawSpec(steps=1)
    return tuple(NoisedLatents.of(m, TEXTS, drawn_latents(m, prompts, spec), count=3) for m in models)


def test_errors_are_the_models_own_training_loss(models, sides):
    model, asked = models[0], sides[0]
    errors = squared_errors(model, asked, predict(model, asked))
    t = asked.timesteps[1].repeat(2)
    with torch.no_grad():
        own = denoising_error(model, model.condition(TEXTS), asked.latents, asked.noise[:, 1], t)
    assert errors.shape == (2, 3)
    assert errors[:, 1] == pytest.approx(own.double().numpy(), rel=1e-5)
    assert asked.timesteps.tolist() == [166, 500, 833]


def test_a_model_is_nowhere_from_itself_and_somewhere_from_another(models, sides):
    one, other = (tuple(predict(model, side) for side in sides) for model in models)
    itself = two_way_distance(models[0], sides, one, one)
    assert (itself.gap, itself.path) == (0, 0)
    apart, back = (
        two_way_distance(models[0], sides, one, other),
        two_way_distance(models[0], sides[::-1], other[::-1], one[::-1]),
    )
    assert apart.path > 0
    assert (apart.gap, apart.path) == pytest.approx((back.gap, back.path))
    assert apart.path == pytest.approx(sum(prediction_distance(*pair) for pair in zip(one, other, strict=True)) / 2)


def test_questions_under_no_text_keep_noise_and_pictures(models, sides):
    blank = sides[0].under("")
    assert blank.texts == ("", "")
    assert blank.noise is sides[0].noise
    with pytest.raises(DataError, match="1 texts for 2 latents"):
        NoisedLatents.of(models[0], ["a cat"], sides[0].latents)


def test_relearning_is_judged_at_every_stop_and_a_rate_of_0_never_learns(models):
    model = models[0]
    side = model.latent_shape[1] * int(model.checkpoint.built_pipeline.vae_scale_factor)
    pictures = torch.rand(5, 3, side, side, generator=torch.Generator().manual_seed(0))
    asked = NoisedLatents.of(model, ["a cat"], torch.randn(1, *model.latent_shape), count=2)
    before = predict(model, asked)

    def moved(now):
        return float(not torch.equal(predict(now, asked), before))

    curves = {
        lr: relearning_curve(
            model, nullcontext, (["a cat"] * 5, pictures), PictureTuning("lora", lr, rank=1), moved, (1, 2, 4)
        )
        for lr in (0.0, 1e-2)
    }
    assert curves == {0.0: {0: 0.0, 1: 0.0, 2: 0.0, 4: 0.0}, 1e-2: {0: 0.0, 1: 1.0}}
    assert [steps_until(curve, 0.5) for curve in curves.values()] == [None, 1]
    assert torch.equal(predict(model, asked), before)


def test_a_control_that_saw_the_concept_is_refused(tmp_path):
    require_never_saw(str(tmp_path), ["bus"])  # No record: at the user's word.
    path = tmp_path / REFERENCE_RECORD
    path.write_text(json.dumps({"left_out": ["bus", "flat"], "unnamed": ["bus", "flat"]}), encoding="utf-8")
    require_never_saw(str(tmp_path), ["bus"])
    with pytest.raises(RequestError, match="saw 'key': it was trained without bus, flat"):
        require_never_saw(str(tmp_path), ["bus", "key"])
    path.write_text(json.dumps({"left_out": ["bus"], "unnamed": []}), encoding="utf-8")
    with pytest.raises(RequestError, match="saw 'bus': it was trained without nothing"):
        require_never_saw(str(tmp_path), ["bus"])
    path.write_text("[]", encoding="utf-8")
    with pytest.raises(RequestError, match="is no record of a reference"):
        require_never_saw(str(tmp_path), ["bus"])
