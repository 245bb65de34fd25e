"""A name is found in a text whatever form Unicode writes either in, and whatever white space is between its words."""

import unicodedata

import pytest

from unconcept.prompts.text_matching import find_name, replace_name, text_around_name, without_names

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "Zo\u00e9 Lund") for form in ("NFC", "NFD"))


@pytest.mark.parametrize("name", [COMPOSED, DECOMPOSED, COMPOSED.upper(), COMPOSED.replace(" ", "  ")])
@pytest.mark.parametrize("text", [COMPOSED, DECOMPOSED, COMPOSED.replace(" ", "\n")])
def test_a_name_is_found_in_every_spelling(name, text) -> None:
    assert without_names([f"a picture of {text}", "a dog"], [name]) == ["a dog"]
    assert replace_name(f"by {text}, old", [name], "her") == "by her, old"
    assert text_around_name(f"by {text}, old", [name]) == ("by", ", old")


def test_only_whole_words_count() -> None:
    assert find_name("a hotdog", ["dog"]) is None
    assert find_name("a hot  dog", ["dog", "hot dog"]) == (2, 10)
