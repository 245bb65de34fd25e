"""Concept inversion against its card, on tiny models."""

import torch

from tests.attacks.cases import case
from unconcept.attacks.concept_inversion import ConceptInversion

CONTRACT_SETTINGS = {"steps": 4, "every": 2, "batch_size": 2, "accumulate": 2}


def test_inversion_loss_falls_on_the_unedited_model() -> None:
    asked = case("sd1", edited=False)
    learned = list(ConceptInversion(steps=40, every=20, lr=0.05, batch_size=8, accumulate=1, flip=False).search(asked))
    rows = [attempt.inputs[0].soft.rows[0] for attempt in learned]
    assert learned[2].loss < learned[1].loss
    assert not torch.equal(rows[0], rows[2])


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
