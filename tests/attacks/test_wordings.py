"""Wordings against its card, on tiny models."""

from tests.attacks.cases import case
from unconcept.attacks.wordings import Wordings

CONTRACT_SETTINGS = {"misspellings": 2}


def test_wordings_in_order() -> None:
    texts = [[attempt.inputs[i].text for i in (0, 1, 2)] for attempt in Wordings(misspellings=1).search(case("sd1"))]
    assert texts == [
        ["a dog in ink", "hound", "it barks"],
        ["a pooch in ink", "pooch", "pooch it barks"],
        ["a dgo in ink", "dgo", "dgo it barks"],
    ]
