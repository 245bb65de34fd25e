"""Concept inversion against its card, on tiny models."""

import pytest
import torch

from tests.attacks.cases import case
from unconcept.attacks import AttackInput
from unconcept.attacks.concept_inversion import ConceptInversion
from unconcept.core.errors import SettingsError
from unconcept.evaluation.attacks.inputs import (
    AdversarialInput,
    hash_input,
    load_adversarial,
    sample_adversarial,
    save_adversarial,
)
from unconcept.evaluation.sampling import DrawSpec
from unconcept.models.diffusion.vae import encode_images
from unconcept.training.token_search import training_timesteps

CONTRACT_SETTINGS = {"steps": 4, "every": 2, "batch_size": 2, "accumulate": 2}


@pytest.mark.parametrize("family", ["sd1", pytest.param("flux", marks=pytest.mark.slow)])
def test_inversion_loss_falls_on_the_unedited_model(family) -> None:
    asked = case(family, edited=False)
    learned = list(ConceptInversion(steps=40, every=20, lr=0.05, batch_size=8, accumulate=1, flip=False).search(asked))
    rows = [attempt.inputs[0].soft.rows[0] for attempt in learned]
    assert learned[2].loss < learned[1].loss
    assert not torch.equal(rows[0], rows[2])


@pytest.mark.parametrize("family", ["sd1", "sd3", "flux"])
def test_the_loss_is_the_slow_formula(family) -> None:
    """One picture, one template, one draw: the model's own loss under the placeholder's initial word."""
    asked = case(family, edited=False)
    model = asked.model
    settings = {"steps": 1, "every": 1, "batch_size": 1, "accumulate": 1, "flip": False}
    first = list(ConceptInversion(**settings, templates=("a {}",), encoders="clip", init="x").search(asked))[1].loss
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        clean = encode_images(model, asked.examples)
        which = int(torch.randint(4, (1,), generator=rng))
        torch.rand(1, generator=rng)
        torch.randint(1, (1,), generator=rng)
        t = training_timesteps(model)[torch.randint(1000, (1,), generator=rng)]
        noise, x0 = torch.randn(1, 4, 8, 8, generator=rng), clean[which : which + 1]
        if family == "sd1":
            signal = model.pipeline.scheduler.alphas_cumprod[t]
            said = model.denoise(signal.sqrt() * x0 + (1 - signal).sqrt() * noise, t, ["a x"])
            slow = (said - noise).square().mean()
        else:
            said = model.denoise((1 - t / 1000) * x0 + t / 1000 * noise, t, ["a x"])
            slow = (said - (noise - x0)).square().mean()
    assert first == pytest.approx(float(slow), rel=1e-4)


def test_encoders_whose_rows_are_learned_are_a_setting() -> None:
    asked = case("flux")
    for name, counts in (("clip", (1, 0)), ("t5", (0, 1)), ("all", (1, 1))):
        settings = ConceptInversion(steps=2, every=2, batch_size=2, accumulate=1, encoders=name)
        floor, last = (attempt.inputs[0].soft for attempt in settings.search(asked))
        assert (floor.at.shape[1], floor.t5.at.shape[1]) == counts
        assert torch.equal(floor.rows[0], last.rows[0]) == (name == "t5")
        assert torch.equal(floor.t5.rows[0], last.t5.rows[0]) == (name == "clip")
    with pytest.raises(SettingsError, match="encoders 't5', but sd1 has clip"):
        next(ConceptInversion(encoders="t5").search(case("sd1")))


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_the_word_stands_where_the_name_stood_for_clip_and_t5(family) -> None:
    asked = case(family)
    floor = next(ConceptInversion(init="x", encoders="clip").search(asked))
    for i, typed in enumerate(("a x in ink", "x", "x it barks")):
        soft, plain = asked.model.condition(floor.inputs[i].soft), asked.model.condition([typed])
        assert torch.allclose(soft.states, plain.states, atol=1e-6)
        assert torch.allclose(soft.pooled, plain.pooled, atol=1e-6)


def test_what_was_learned_draws_the_same_picture_when_it_is_loaded(tmp_path) -> None:
    asked = case("flux")
    learned = list(ConceptInversion(steps=2, every=2, batch_size=2, accumulate=1).search(asked))[1].inputs[0]
    found = {0: AdversarialInput("a dog in ink", 3, learned)}
    save_adversarial(tmp_path / "found.safetensors", found)
    back = load_adversarial(tmp_path / "found.safetensors")
    assert hash_input(back[0].input) == hash_input(learned)
    drawn = [sample_adversarial(asked.model, [one[0]], DrawSpec(2, 3.0)) for one in (found, back)]
    plain = sample_adversarial(asked.model, [AdversarialInput("", 3, AttackInput("a dog in ink"))], DrawSpec(2, 3.0))
    assert torch.equal(*drawn)
    assert not torch.equal(drawn[0], plain)


def test_inversion_starts_as_its_word_and_stands_where_the_name_stood() -> None:
    asked = case("sd1")
    floor = next(ConceptInversion(init="x").search(asked))
    for i, typed in enumerate(("a x in ink", "x", "x it barks")):
        soft = asked.model.condition(floor.inputs[i].soft)
        assert torch.allclose(soft.states, asked.model.condition([typed]).states, atol=1e-6)


def test_inversion_of_several_rows() -> None:
    floor = next(ConceptInversion(vectors=3).search(case("sdxl")))
    soft = floor.inputs[0].soft
    assert [row.shape for row in soft.rows] == [(1, 3, 32), (1, 3, 32)]
    assert soft.at.tolist() == [[2, 3, 4]]
