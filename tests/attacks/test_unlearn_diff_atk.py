"""UnlearnDiffAtk against its card, on tiny models."""

from dataclasses import replace

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from tests.attacks.cases import case
from unconcept.attacks.unlearn_diff_atk import UnlearnDiffAtk
from unconcept.models import Conditioning
from unconcept.models.diffusion.timestep_grid import even_timesteps
from unconcept.models.diffusion.vae import encode_images
from unconcept.models.text.vocabulary import pad_ids, text_of_ids, word_ids
from unconcept.training.token_search import TokenVocabulary, random_generators

CONTRACT_SETTINGS = {"tokens": 2, "timesteps": 2, "iterations": 2, "batch_size": 2}


def test_timesteps_are_the_papers() -> None:
    found = even_timesteps(case("sd1").model, 50)
    assert (found[:3], found[-1]) == ([10, 30, 50], 990)


def test_a_flows_timesteps_are_those_of_its_sampler() -> None:
    model = case("sd3").model
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(4)
    assert even_timesteps(model, 4) == scheduler.timesteps.flip(0).tolist()


def test_prefix_keeps_the_prompt_behind_the_tokens() -> None:
    attempts = list(UnlearnDiffAtk(tokens=2, timesteps=1, iterations=1).search(case("sd1")))
    assert attempts[0].inputs[0].text == "a dog in ink"
    assert attempts[1].inputs[0].text.replace(" ", "").endswith("adoginink")
    assert attempts[1].inputs[0].text != "a dog in ink"


@pytest.mark.parametrize("family", ["sd1", "flux"])
def test_a_search_does_not_know_its_neighbours(family) -> None:
    settings = UnlearnDiffAtk(tokens=2, timesteps=1, iterations=3)
    together = list(settings.search(case(family)))[1]
    one_by_one = list(replace(settings, batch_size=1).search(case(family)))[1:]
    assert [together.inputs[i].text for i in range(3)] == [
        attempt.inputs[i].text for i, attempt in enumerate(one_by_one)
    ]


def test_the_loss_on_flux_is_the_slow_formula() -> None:
    """T5 reads the tokens that were drawn, CLIP their text; the flow at the sampler's only level, pure noise."""
    asked = case("flux", edited=False)
    view, own = asked.model, TokenVocabulary.of(asked.model)
    loss = list(UnlearnDiffAtk(tokens=2, timesteps=1, iterations=1, batch_size=1).search(asked))[1].loss
    (rng,) = random_generators(0, [0]).values()
    even = own.is_typable.float() / own.is_typable.sum()
    drawn = torch.multinomial(even.expand(2, -1), 1, generator=rng)[:, 0].tolist()
    ids = (*drawn, *word_ids(own.tokenizer, asked.prompts[0]))
    pooled = view.condition([text_of_ids(own.tokenizer, ids)]).pooled
    states = view.modules("text_encoder_2")(pad_ids(own.tokenizer, [ids]))[0]
    x0, noise = encode_images(view, asked.pictures[:1]).detach(), torch.randn(4, 8, 8, generator=rng)[None]
    said = view.denoise(noise, torch.tensor(1000), Conditioning(states, pooled))
    assert loss == pytest.approx((said - (noise - x0)).square().mean().item(), rel=1e-4)


@pytest.mark.slow
def test_the_search_moves_the_tokens_of_one_encoder() -> None:
    """T5's in FLUX if nothing else is said; the text that is found is one for both encoders."""
    settings = UnlearnDiffAtk(tokens=2, timesteps=2, iterations=6, lr=0.3)
    found = {
        name: list(replace(settings, vocabulary=name).search(case("flux")))[-1].inputs[0].text
        for name in ("first", "t5", "clip")
    }
    assert found["first"] == found["t5"] != found["clip"]
    assert all(text.replace(" ", "").endswith("adoginink") for text in found.values())


@pytest.mark.slow
def test_the_search_lowers_its_loss_on_flux() -> None:
    """Over updates at one level; decay would outweigh the gradients of a network this small."""
    settings = UnlearnDiffAtk(tokens=3, timesteps=1, iterations=30, lr=1e-9, weight_decay=0.0, batch_size=1)
    stays = list(settings.search(case("flux", edited=False)))[1].loss
    moved = list(replace(settings, lr=0.1).search(case("flux", edited=False)))[1].loss
    assert moved < stays
