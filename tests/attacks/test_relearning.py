"""Relearning: powers of two, the pictures asked for and no others, and nothing without a learning rate."""

from dataclasses import replace

import pytest
import torch

from tests.attacks.cases import case
from unconcept.attacks.relearning import Relearning
from unconcept.core.errors import RequestError, SettingsError
from unconcept.jobs.plans.rehearsals import rehearse_search

CONTRACT_SETTINGS = {"pictures": 2, "steps": 2, "batch_size": 2, "rank": 2}


@pytest.mark.parametrize("mode", ["lora", "full"])
def test_without_a_learning_rate_nothing_is_relearned(mode) -> None:
    asked = case("sd1")
    last = (
        list(Relearning(mode=mode, lr=0.0, full_lr=0.0, pictures=1, steps=2, rank=2).search(asked))[-1]
        .inputs[0]
        .weights
    )
    assert all(not last.delta(name, w).any() for name, w in asked.model.reference(last.names).items())


def test_attempts_after_powers_of_two_from_the_pictures_asked_for_alone() -> None:
    asked, attack = case("sd1"), Relearning(pictures=2, steps=4, batch_size=2, rank=2, lr=1e-2)
    found = list(attack.search(asked))
    assert [attempt.steps for attempt in found] == [0, 1, 2, 4]
    changed = asked.examples.clone()
    changed[2:] = 0.5
    others = list(attack.search(replace(asked, examples=changed, pictures=0 * asked.pictures)))
    assert others[-1].inputs[0].weights.hash == found[-1].inputs[0].weights.hash
    changed[1] = 0.5
    assert list(attack.search(replace(asked, examples=changed)))[-1].loss != found[-1].loss


def test_an_estimate_counts_the_attempts_that_are_made() -> None:
    """Not one after each step."""
    settings = {"pictures": 1, "steps": 4, "batch_size": 1, "rank": 2}
    asked = case("sd1")
    found = rehearse_search("relearning", settings, asked, 0.0)
    made = [attempt for attempt in Relearning(**settings).search(asked) if attempt.steps]
    assert (found.steps, found.later) == (4, sum(len(attempt.inputs) for attempt in made))


def test_it_learns_under_the_captions_of_its_pictures() -> None:
    asked, attack = case("sd1"), Relearning(pictures=1, steps=1, batch_size=1, rank=2)
    plain, named, same = (
        list(attack.search(replace(asked, captions=captions)))[-1].loss
        for captions in ((), ("a car", "x", "x", "x"), ("a dog", "x", "x", "x"))
    )
    assert plain == same
    assert plain != named


def test_a_concept_is_learned() -> None:
    attempts = list(Relearning(pictures=2, lr=3e-2, steps=32, batch_size=4).search(case("sd1")))
    assert attempts[-1].loss < attempts[-3].loss


def test_too_few_pictures_and_odd_steps_are_refused() -> None:
    with pytest.raises(RequestError, match="relearning: 9 pictures asked for, and the case has 4"):
        next(Relearning(pictures=9).search(case("sd1")))
    with pytest.raises(SettingsError, match="power of two"):
        Relearning(steps=3)
    assert torch.is_grad_enabled()
