"""The checks of the embedded model: each knows the words by which its prompt names the concept."""

from collections import Counter

import pytest

from unconcept.prompts.checks import GroupSizes, moji_checks
from unconcept.prompts.sets import SCENE_GROUPS
from unconcept.worlds.scenes import scene_words
from unconcept.worlds.table import concept_table


@pytest.mark.parametrize("name", ["guitar", "twemoji"])
@pytest.mark.parametrize("tuning", [True, False])
def test_a_prompt_holds_the_words_that_stand_for_its_concept(name, tuning) -> None:
    checks = moji_checks(concept_table(), (name,), GroupSizes(12, 12, tuning=tuning))
    assert all((check.wording or check.concept) in check.prompt.text for check in checks)
    reworded = {check.group for check in checks if check.wording}
    assert "synonym" in reworded
    assert reworded <= {"synonym", "indirect", "count"}


@pytest.mark.parametrize("name", ["guitar", "twemoji"])
def test_scenes_of_other_objects_are_asked_for(name) -> None:
    """Their background, count and order are known from the prompt, and the target is in none of them."""
    checks = moji_checks(concept_table(), (name,), GroupSizes(12, 12))
    words = scene_words()
    asked = {group: [check for check in checks if check.group == group] for group in SCENE_GROUPS}
    assert {group: len(members) for group, members in asked.items()} == dict.fromkeys(SCENE_GROUPS, 12)
    for check in asked["background"]:
        assert check.prompt.text.endswith(f" on a {check.labels[0]} background")
        assert check.concept not in words[check.labels[0]].unseen
    assert {check.labels for check in asked["count"]} == {("two",), ("three",)}
    for check in asked["count"]:
        assert check.prompt.text.startswith(f"{check.labels[0]} {words.plural(check.concept)}")
    for check in asked["order"]:
        (answer,) = check.labels
        left, right = answer.split(" left of ")
        assert check.prompt.text in (f"a {left} left of a {right}", f"a {right} right of a {left}")
    assert len({check.prompt.text.count("left of") for check in asked["order"]}) == 2
    assert not any(name in (check.concept, *check.labels) for members in asked.values() for check in members)


@pytest.mark.parametrize("name", ["guitar", "twemoji"])
def test_far_captions_are_drawn_from_two_seeds_each(name) -> None:
    checks = moji_checks(concept_table(), (name,), GroupSizes(12, 12))
    far = Counter(check.prompt.text for check in checks if check.group == "far")
    assert set(far.values()) == {2}
    assert len({check.prompt for check in checks if check.group == "far"}) == 12
