"""Positions that two texts share, and the sentences an encoder can hold."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests import tiny
from unconcept.core.errors import RequestError
from unconcept.linalg.moments import SecondMoments
from unconcept.models.text.state_rows import sentences_that_fit, shared_positions, text_state_moments


def test_the_cards_example() -> None:
    """ "A photo of fenn arlo" and "A photo of a person": start, A, photo, of, end, pads."""
    one, two = [0, 1, 2, 3, 10, 11, 99], [0, 1, 2, 3, 20, 21, 99]
    assert shared_positions(one, two, 9) == ([0, 1, 2, 3, 6, 7, 8], [0, 1, 2, 3, 6, 7, 8])


def test_lengths_that_differ_share_as_many_pads_as_both_have() -> None:
    one, two = [0, 1, 10, 11, 12, 5, 99], [0, 1, 20, 5, 99]
    assert shared_positions(one, two, 9) == ([0, 1, 5, 6, 7, 8], [0, 1, 3, 4, 5, 6])


@given(*(st.lists(st.integers(1, 3), max_size=6) for _ in range(3)), st.lists(st.integers(1, 3), max_size=6))
def test_pairs_are_equal_tokens_used_once_and_symmetric(before, old, new, after) -> None:
    one, two = [0, *before, *old, *after, 99], [0, *before, *new, *after, 99]
    length = max(len(one), len(two)) + 3
    at_one, at_two = shared_positions(one, two, length)
    padded = [[*ids, *[99] * (length - len(ids))] for ids in (one, two)]
    assert len(at_one) == len(at_two) == len(set(at_one)) == len(set(at_two))
    assert [padded[0][i] for i in at_one] == [padded[1][i] for i in at_two]
    assert len(at_one) >= 2 + len(before) + 3
    assert shared_positions(two, one, length) == (at_two, at_one)


@given(st.lists(st.integers(1, 3), max_size=6))
def test_equal_texts_share_everything(words) -> None:
    ids = [0, *words, 99]
    assert shared_positions(ids, ids, 12) == (list(range(12)), list(range(12)))


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_moments_of_texts_are_those_of_all_their_rows(family) -> None:
    view, texts = tiny.shared(family), ["a cat", "", "two dogs", "a cat"] * 20
    rows = view.embed(texts, at="all").flatten(0, 1)
    found = text_state_moments(view, texts)
    assert found.count == len(rows)
    assert torch.allclose(found.gram, SecondMoments.of(rows).gram, atol=1e-9)
    assert text_state_moments(view, ()).count == 0


def test_sentences_too_long_are_left_out_unless_all_are() -> None:
    view = tiny.shared("sd1")
    assert sentences_that_fit(view, ("a {}", "a very long sentence about {}"), "dog", "cat") == ["a {}"]
    with pytest.raises(RequestError, match="'dog' -> 'an extraordinary animal'"):
        sentences_that_fit(view, ("a photo of {}",), "dog", "an extraordinary animal")
