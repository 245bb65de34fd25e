"""Derived embedding, RECE's derive step, against its card, on tiny models."""

import pytest
import torch

from tests import tiny
from tests.attacks.cases import case
from unconcept.attacks.derived_embedding import DerivedEmbedding
from unconcept.models.text.vocabulary import word_ids

CONTRACT_SETTINGS = {}


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_derived_states_are_read_nearer_to_the_concept(family) -> None:
    """Over all edited maps, with the ridge: |W' c' - W c|^2 + lam |c'|^2 is below its value at c' = c."""
    asked = case(family)
    found = list(DerivedEmbedding(lamb=0.01).search(asked))[1].inputs[0].states
    own = asked.model.condition(["a dog in ink"])
    at = len(word_ids(asked.model.tokenizer, "a dog"))
    c, derived = own.states[0, at].double(), found.states[0, at].double()
    reference = {name: w.detach().double() for name, w in asked.model.text_maps().items()}
    with asked.edit_applied():
        edited = {name: w.detach().double() for name, w in asked.model.text_maps().items()}

    def objective(x):
        return sum((edited[n] @ x - reference[n] @ c).square().sum() for n in edited) + 0.01 * x.square().sum()

    assert objective(derived) < objective(c)
    rest = [i for i in range(own.states.shape[1]) if i != at]
    assert torch.equal(found.states[0, rest], own.states[0, rest])


def test_derived_all_states_are_those_of_one_matrix() -> None:
    asked = case("sd1")
    last, every = (
        list(DerivedEmbedding(tokens=tokens).search(asked))[1].inputs[1].states for tokens in ("last", "all")
    )
    at = len(word_ids(asked.model.tokenizer, "hound"))
    assert torch.allclose(last.states[0, at], every.states[0, at], atol=1e-6)
    assert not torch.allclose(last.states[0, at + 1], every.states[0, at + 1], atol=1e-6)
