"""Texts that differ only in Unicode form, white space or capitals are one text before any model is known."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unconcept.core import Concept, Request
from unconcept.core.errors import RequestError
from unconcept.core.request import merge_requests
from unconcept.core.text_identity import distinct_texts, folded_text, normalised_text

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "Zoé Lund") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Request((COMPOSED,), ("person",), (DECOMPOSED,)),
        lambda: Request((COMPOSED, DECOMPOSED), ("person",) * 2),
        lambda: Request.of([Concept(COMPOSED)], [DECOMPOSED]),
        lambda: Request(("Zoe Lund", "zoe lund"), ("person",) * 2),
        lambda: Request(("Zoe Lund",), ("person",), ("zoe\u00a0 lund ",)),
    ],
)
def test_two_spellings_are_refused(make) -> None:
    with pytest.raises(RequestError, match=r"^[^\n]*(one text to the model|only in how it is spelled)[^\n]*$"):
        make()


def test_capitals_count_where_the_caller_says_so() -> None:
    assert Request(("Apple",), ("fruit",), ("apple",), folds_case=False).retain == ("apple",)
    with pytest.raises(RequestError, match="also retained"):
        Request((COMPOSED,), ("fruit",), (DECOMPOSED,), folds_case=False)
    assert Request.of([Concept("Apple")], ["apple"], folds_case=False).anchors == ("apple",)


@given(st.text(), st.text())
def test_keys_do_not_change_a_second_time(one, two) -> None:
    for key in (normalised_text, folded_text):
        assert normalised_text(key(one)) == normalised_text(normalised_text(key(one)))
        assert key(f"{one} {two}") == key(f"  {one}\n\t{two} ")
    assert normalised_text(unicodedata.normalize("NFD", one)) == normalised_text(one)


def test_distinct_texts_keeps_the_first_spelling() -> None:
    assert distinct_texts(["", " ", "Sea", "sea", DECOMPOSED, COMPOSED]) == ("", "Sea", DECOMPOSED)
    assert distinct_texts(["Sea", "sea ", "sea"], normalised_text) == ("Sea", "sea ")


def test_merging_counts_two_spellings_once() -> None:
    """Whoever came first: the spelling and the anchor that sort first count."""
    parts = [
        Request((COMPOSED,), ("person",), (" ", "Sea")),
        Request((DECOMPOSED,), ("a woman",), ("", "sea", "dog")),
        Request(("DOG",), ("cat",)),
    ]
    for order in (parts, parts[::-1]):
        merged = merge_requests(order)
        assert merged.targets == ("DOG", min(COMPOSED, DECOMPOSED))
        assert merged.anchors == ("cat", "a woman")
        assert merged.retain == ("", "Sea")
    apart = merge_requests(parts, normalised_text)
    assert apart.retain == ("", "Sea", "dog", "sea")


def test_a_record_of_an_earlier_version_is_read() -> None:
    read = Request.recorded(
        (COMPOSED, DECOMPOSED, "Sea", "sea"), ("a", "b", "c", "d"), (DECOMPOSED, "x"), "person", None
    )
    assert (read.targets, read.anchors, read.retain) == ((COMPOSED, "Sea", "sea"), ("a", "c", "d"), ("x",))
