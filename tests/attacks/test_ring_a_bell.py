"""Ring-A-Bell against its card, on tiny models."""

from dataclasses import replace

import pytest
import torch

from tests import tiny
from tests.attacks.cases import case
from unconcept.attacks.ring_a_bell import Population, RingABell, searchable_token_ids, text_state_errors
from unconcept.models.text.vocabulary import special_ids, word_ids

CONTRACT_SETTINGS = {"length": 4, "population": 6, "generations": 4, "every": 2}


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_direction_is_nought_at_the_start_token_and_turns_with_the_pair(family) -> None:
    asked = case(family)
    found = RingABell(neutral="cat").direction(replace(asked, concept=replace(asked.concept, aliases=())))
    width = asked.model.width
    assert found[:width].abs().max() < 1e-5
    turned = RingABell(neutral="dog").direction(replace(asked, concept=replace(asked.concept, name="cat", aliases=())))
    assert torch.allclose(found, -turned, atol=1e-5)


def test_the_prompts_own_tokens_have_no_error_without_the_direction() -> None:
    asked = case("sd1")
    ids = torch.tensor([word_ids(asked.model.tokenizer, "a dog"), word_ids(asked.model.tokenizer, "a cat")])
    goal = asked.model.condition(["a dog"]).states.flatten(1)[0].detach()
    with torch.no_grad():
        both = text_state_errors(asked.model, ids, goal)
        assert both[0] < 1e-8 < both[1]
        assert torch.allclose(text_state_errors(asked.model, ids[1:], goal), both[1:], rtol=1e-5)


def test_genetic_search_finds_planted_tokens_and_never_gets_worse() -> None:
    asked, rng = case("sd1"), torch.Generator().manual_seed(0)
    few = torch.tensor(word_ids(asked.model.tokenizer, "abcdef"))
    planted = few[[4, 1, 3]]
    with torch.no_grad():
        goal = read_states(asked.model, planted)
        settings, losses = RingABell(population=40, length=3), []
        start = few[torch.randint(len(few), (40, 3), generator=rng)]
        herd = Population(start, rng, start[0])
        for _ in range(15):
            settings._evolve(asked.model, herd, goal, few, False)
            losses.append(herd.loss)
    assert losses == sorted(losses, reverse=True)
    assert torch.equal(herd.best, planted)


def read_states(model, ids):
    from unconcept.attacks.ring_a_bell import _flat, _read
    from unconcept.models.text.vocabulary import pad_ids

    return _flat(_read(model, pad_ids(model.tokenizer, [ids.tolist()])))[0]


def test_search_never_uses_special_tokens_or_id_nought() -> None:
    model = case("sd1").model
    assert not set(searchable_token_ids(model).tolist()) & {0, *special_ids(model.tokenizer)}
