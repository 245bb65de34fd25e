"""Inside `deterministic_text_states` a text's state knows nothing of the others."""

from dataclasses import replace

import pytest
import torch

from tests import tiny
from unconcept.core import pinned_threads
from unconcept.core.errors import RequestError
from unconcept.models import open_model
from unconcept.models.text.state_cache import deterministic_text_states

TEXTS = ("dog face", "red car", "cat", "dog face", "")


@pytest.mark.parametrize("family", [*tiny.FAMILIES, *tiny.MMDITS])
def test_states_are_those_of_each_text_alone(family) -> None:
    view = tiny.shared(family)
    alone = torch.cat([view.embed([text]) for text in TEXTS])
    known = {}
    with deterministic_text_states(view, known) as fixed:
        found = fixed.embed(TEXTS)
        again = fixed.embed(TEXTS[::-1])
    assert torch.equal(found, alone)
    assert torch.equal(again, torch.cat([view.embed([text]) for text in TEXTS[::-1]]))
    assert set(known) == {("last_subject", text) for text in TEXTS}
    assert torch.allclose(view.embed(TEXTS), found, atol=1e-12)


@pytest.mark.parametrize("count", [2, 7, 40])
def test_a_state_does_not_depend_on_its_neighbours(count) -> None:
    """Bit for bit, in `moji`'s own encoder, at every place of a block and beside any others."""
    text = replace(open_model("moji")._encoders()[0], state_cache=None)
    words = [
        f"{one} {two}"
        for one in ("red", "blue", "old", "small", "wild")
        for two in ("dog", "cat", "car", "rose", "star", "fish", "hat", "key")
    ][:count]
    shuffled = sorted(words, key=lambda word: word[::-1])
    found = dict(zip(shuffled, text.embed(shuffled, "last_subject"), strict=True))
    for word, state in zip(words, text.embed(words, "last_subject"), strict=True):
        assert torch.equal(state, found[word])
        assert torch.equal(state, text.embed([word], "last_subject")[0])


def test_more_texts_than_are_held_at_once_are_read_in_turns(monkeypatch) -> None:
    """Of several lengths, in the order they were asked for."""
    text = replace(open_model("moji")._encoders()[0], state_cache=None)
    words = ["cat", "a cat on a table", "dog face", "a dog", "rose", "two red hats", "cat"]
    whole = text.embed(words, "last_subject"), text.embed(words, "all")
    monkeypatch.setattr("unconcept.models.text.clip_encoder._MOST_TOKENS", 8)
    assert torch.equal(text.embed(words, "last_subject"), whole[0])
    assert torch.equal(text.embed(words, "all"), whole[1])


def test_what_is_known_is_not_read_again() -> None:
    view = tiny.shared("sd1")
    planted = torch.ones(1, 32, dtype=torch.float64)
    with deterministic_text_states(view, {("last_subject", "cat"): planted}) as fixed:
        assert torch.equal(fixed.embed(["cat"]), planted)
        assert not torch.equal(fixed.embed(["cat"], at="first_eot"), planted)
    assert not torch.equal(view.embed(["cat"]), planted)


def test_whole_and_no_texts_are_read_as_ever() -> None:
    view = tiny.shared("sd1")
    known = {}
    with deterministic_text_states(view, known) as fixed:
        assert torch.equal(fixed.embed(TEXTS, at="all"), fixed.embed(TEXTS, at="all"))
        assert fixed.embed(()).shape == (0, 32)
    assert not known


def test_threads_are_as_before_even_after_an_error() -> None:
    before = torch.get_num_threads()
    with pinned_threads(2):
        with pytest.raises(RequestError), deterministic_text_states(tiny.shared("sd1")) as fixed:
            fixed.embed(["a" * 99])
        with deterministic_text_states(tiny.shared("sd1")):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == before
