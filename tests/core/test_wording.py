"""Where a text names a concept, and how a name is misspelt."""

from unconcept.prompts.text_matching import find_name, replace_name, text_around_name, typos


def test_the_longest_wording_as_whole_words() -> None:
    text = "a Dog Face in ink"
    assert find_name(text, ("dog", "dog face")) == (2, 10)
    assert find_name("two dogs", ("dog",)) is None
    assert find_name("a hot-dog", ("hot-dog",)) == (2, 9)


def test_around_and_reworded() -> None:
    assert text_around_name("a dog in ink", ("dog",)) == ("a", "in ink")
    assert text_around_name("it barks", ("dog",)) == ("", "it barks")
    assert replace_name("a dog in ink", ("dog",), "hound") == "a hound in ink"
    assert replace_name("it barks", ("dog",), "hound") == "hound it barks"


def test_typos_are_single_slips_that_keep_first_letters() -> None:
    found = typos("red car")
    assert found[:4] == ("rde car", "rd car", "reed car", "rwd car")
    assert len(set(found)) == len(found)
    assert all(slip != "red car" and slip[0] == "r" and slip.split()[1][0] == "c" for slip in found)
    assert all(abs(len(slip) - 7) <= 1 for slip in found)
    assert typos("x") == ()
