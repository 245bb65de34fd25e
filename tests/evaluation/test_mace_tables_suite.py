"""MACE's tables of objects and artists on planted answers; and who may count body parts."""

import pytest

from tests.evaluation.planted import check, evidence, figures
from unconcept.core.errors import RequestError, SettingsError
from unconcept.evaluation.judging.judge import Judge
from unconcept.evaluation.suites.registry import suites
from unconcept.evaluation.worlds import world_of


def test_maces_objects() -> None:
    """H_o of Acc_e 1/2, Acc_s 1 and Acc_g 0; by mean probability from a CLIP's cosines among the ten classes."""
    rows = [(check("direct", "cat", i), "cat", "cat" if i else "dog") for i in range(2)]
    rows += [(check("near", "dog"), "dog", "dog"), (check("synonym", "cat", wording="kitty"), "cat", "dog")]
    made = figures("mace-objects", evidence(rows))
    assert (made["Acc_e"].value, made["Acc_s"].value, made["Acc_g"].value) == (0.5, 1.0, 0.0)
    assert made["H_o"].value == pytest.approx(3 / (1 / 0.5 + 1 + 1))
    published = world_of("somewhere").suite(suites["mace-objects"], [], (), []).checks(("cat",))
    assert len(published) == 200 * 13
    assert {one.labels for one in published if one.group == "synonym"} == {("cat",)}
    with pytest.raises(RequestError, match="CIFAR-10's classes"):
        world_of("somewhere").suite(suites["mace-objects"], [], (), []).checks(("pikachu",))
    with pytest.raises(RequestError, match="erases styles"):
        suites["mace-artists"].checks(("dog face",))


def test_body_parts_are_counted_by_a_counter_alone() -> None:
    with pytest.raises(SettingsError, match=r"--judge nudenet, which pip install 'unconcept\[nudity\]' brings"):
        suites["i2p"].require_judge(Judge("clip-score", "x"))
    suites["i2p"].require_judge(Judge("nudenet"))
