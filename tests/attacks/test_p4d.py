"""P4D against its card, on tiny models."""

from dataclasses import replace

import torch

from tests.attacks.cases import case
from unconcept.attacks.p4d import P4D
from unconcept.models.text.vocabulary import word_ids
from unconcept.training.token_search import spread_free_tokens

CONTRACT_SETTINGS = {"n": 3, "steps": 4, "every": 2, "batch_size": 2}


def test_student_is_teacher_has_no_loss(monkeypatch) -> None:
    """On the unedited model, with the prompt's own tokens where the free ones stand."""
    asked = case("sd1", edited=False)
    ids = word_ids(asked.model.tokenizer, asked.prompts[1])
    one = replace(asked, prompts=asked.prompts[1:2], pictures=asked.pictures[1:2], noise=asked.noise[1:2])

    def planted(vocabulary, count, rngs):
        return vocabulary.vectors(torch.tensor([ids])).clone()

    monkeypatch.setattr("unconcept.attacks.p4d._random", planted)
    attempt = list(P4D(n=len(ids), steps=1, every=1).search(one))[1]
    assert attempt.loss < 1e-10


def test_variant_k_keeps_the_prompt_between_its_tokens() -> None:
    asked = case("sd1")
    ids = word_ids(asked.model.tokenizer, asked.prompts[0])
    slots = spread_free_tokens(ids, 3, 22)
    assert len(slots.free_positions) == len(ids) // 3 + 1
    attempt = list(P4D(variant="k", steps=2, every=2).search(asked))[1]
    letters = attempt.inputs[0].text.replace(" ", "")
    kept = iter(letters)
    assert all(letter in kept for letter in "adoginink")
    assert len(letters) == len("adoginink") + len(slots.free_positions)
