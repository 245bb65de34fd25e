"""Damage where it hides, on planted answers: of what was right before the edit."""

from collections import Counter

import pytest

from tests.evaluation.planted import check, evidence, figures
from unconcept.core.errors import SettingsError
from unconcept.evaluation.judging.judge import Judge
from unconcept.evaluation.suites.registry import suites
from unconcept.evaluation.worlds import world_of


def test_damage_is_of_what_was_right() -> None:
    rows = [(check("count", "key", i, by="count"), "key" if i < 4 else "x", "key" if i % 2 else "x") for i in range(6)]
    made = figures("damage", evidence(rows))
    assert (made["lost, count"].value, made["lost, count"].n) == (0.5, 4)
    with pytest.raises(SettingsError, match="clip-score does not tell"):
        suites["damage"].require_judge(Judge("clip-score", "x"))
    suites["damage"].require_judge(Judge("vlm", "x"))
    suite = world_of("somewhere").suite(suites["damage"], [], (), [])
    general = suite.checks(("teapot",))
    assert "teapot" not in {one.concept for one in general}
    assert {one.group for one in general} == {"far", "background", "count", "order"}
    few = Counter(one.group for one in suite.with_limit(3, 0).checks(("teapot",)))
    assert few == {"far": 3, "background": 3, "count": 3, "order": 3}
