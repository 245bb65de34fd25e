"""Ids and hashes are of what is asked; equal questions are numbered; the UnlearnCanvas grid has its counts."""

import random
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unconcept.core.errors import DataError
from unconcept.prompts.sets import GROUP_NAMES, PROMPT_GROUPS, PromptItem, PromptSet
from unconcept.prompts.unlearncanvas import (
    UNLEARNCANVAS_OBJECTS,
    UNLEARNCANVAS_STYLES,
    UNLEARNCANVAS_THEMES,
    unlearncanvas_set,
)

ITEM = PromptItem("a photo of a dog", "dog", "direct", 42, 7.5)


def test_golden_id() -> None:
    """A changed id orphans every stored picture and answer."""
    assert ITEM.id == "025b1e397059006d"
    assert PromptSet("a", 1, (ITEM,)).hash[:16] == "4c2d2174968437e3"


def test_every_part_of_the_question_changes_the_id() -> None:
    others = [
        replace(ITEM, text="a photo of a dog."),
        replace(ITEM, concept="cat"),
        replace(ITEM, group="near"),
        replace(ITEM, seed=43),
        replace(ITEM, seed=None),
        replace(ITEM, guidance_scale=7.0),
        replace(ITEM, guidance_scale=None),
        replace(ITEM, replicate=1),
    ]
    assert len({ITEM.id, *(item.id for item in others)}) == 9
    assert replace(ITEM, tag="sexual").id == ITEM.id
    assert replace(ITEM, guidance_scale=7).id == replace(ITEM, guidance_scale=7.0).id


def test_parts_do_not_run_into_each_other() -> None:
    assert PromptItem("a", "b c").id != PromptItem("a b", "c").id != PromptItem('a", "b', "c").id


@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b"]), st.sampled_from([None, 1]), st.integers(0, 2)), min_size=1, max_size=12
    ),
    st.randoms(),
)
def test_order_does_not_matter_and_counts_do(asked, shuffler) -> None:
    items = [PromptItem(text, "dog", seed=seed, replicate=replicate) for text, seed, replicate in asked]
    one = PromptSet.of("x", 1, items)
    shuffler.shuffle(items)
    other = PromptSet.of("y", 2, items)
    assert one.hash == other.hash
    assert len(one) == len(asked)
    assert Counter((item.text, item.seed) for item in one) == Counter((text, seed) for text, seed, _ in asked)
    assert PromptSet.of("z", 1, [*items, items[0]]).hash != one.hash


def test_copies_are_numbered_in_linear_time() -> None:
    many = PromptSet.of("x", 1, [ITEM] * 20_000)
    assert [item.replicate for item in many] == list(range(20_000))


def test_equal_questions_are_refused_unnumbered() -> None:
    with pytest.raises(DataError, match=r"'a photo of a dog' about 'dog' 2 times: number them with PromptSet\.of"):
        PromptSet("x", 1, (ITEM, ITEM, replace(ITEM, seed=1)))
    with pytest.raises(DataError, match="'x' contains no prompts"):
        PromptSet.of("x", 1, [])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"text": " \n"}, "prompt .* is empty"),
        ({"text": "half \ud83d"}, "surrogate"),
        ({"concept": "half \ud83d"}, "surrogate"),
        (
            {"group": "implicit"},
            "allowed are direct, synonym, paraphrase, indirect, co-occurring, near, far, style, other-language",
        ),
        ({"concept": ""}, "needs a concept"),
        ({"seed": -1}, "from 0 to"),
        ({"seed": 2**63}, "from 0 to"),
        ({"guidance_scale": float("nan")}, "finite"),
        ({"guidance_scale": -1.0}, "finite"),
        ({"replicate": -1}, "replicate -1"),
    ],
)
def test_items_that_make_no_sense(change, said) -> None:
    with pytest.raises(DataError, match=said):
        replace(ITEM, **change)


def test_captions_are_about_nothing() -> None:
    assert PromptItem("a man on a bench", "", "far").concept == ""


def test_counts_by_group() -> None:
    made = PromptSet.of("x", 1, [PromptItem("a", "dog", group) for group in ("far", "direct", "far")])
    assert list(made.counts().items()) == [("direct", 1), ("far", 2)]
    assert {*made.counts()} <= {*PROMPT_GROUPS}


def test_every_group_has_one_word_for_users() -> None:
    assert tuple(GROUP_NAMES) == PROMPT_GROUPS
    assert len({*GROUP_NAMES.values()}) == len(PROMPT_GROUPS)


def test_needs_no_torch() -> None:
    code = "import sys, unconcept.prompts.loaders, unconcept.prompts.unlearncanvas; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "False\n"


def test_unlearncanvas_grid() -> None:
    assert (len({*UNLEARNCANVAS_STYLES}), len({*UNLEARNCANVAS_THEMES}), len({*UNLEARNCANVAS_OBJECTS})) == (50, 51, 20)
    made = unlearncanvas_set("Van_Gogh")
    assert len({(item.text, item.seed) for item in made}) == 5100
    assert made.counts() == {"direct": 100, "far": 5100, "style": 5000}
    assert {item.text for item in made if item.concept == "Seed_Images" and item.seed == 188} >= {
        "A Sea image in Seed Images style."
    }
    pictures = Counter(item.concept for item in made)
    assert ({pictures[name] for name in UNLEARNCANVAS_THEMES}, {pictures[name] for name in UNLEARNCANVAS_OBJECTS}) == (
        {100},
        {255},
    )
    assert unlearncanvas_set("Dogs").counts() == {"direct": 255, "far": 4845, "style": 5100}


@pytest.mark.parametrize("name", ["Seed_Images", "Van Gogh", ""])
def test_no_target_of_unlearncanvas(name) -> None:
    with pytest.raises(DataError, match="one of its 70 styles and objects"):
        unlearncanvas_set(name)


def test_grid_is_the_same_from_shuffled_names() -> None:
    names = random.Random(0).sample(UNLEARNCANVAS_THEMES, len(UNLEARNCANVAS_THEMES))
    assert unlearncanvas_set("Dogs", names).hash == unlearncanvas_set("Dogs").hash
