"""The celebrity protocol on planted names: faces that are gone, stand-ins, weak names, judges that see no faces."""

import pytest

from tests.evaluation.planted import evidence, figures, people
from unconcept.core.errors import RequestError, SettingsError
from unconcept.evaluation.judging.judge import Judge
from unconcept.evaluation.suites.registry import suites


def test_celebrities_with_faces_that_are_gone() -> None:
    """Of four erased pictures two have no face after the edit, and one of the others is still recognised."""
    rows = people("direct", "ann", ["ann"] * 4, ["ann", "bob", "-", "-"])
    rows += people("near", "bob", ["bob"] * 4, ["bob"] * 3 + ["ann"])
    rows += people("synonym", "ann", ["ann"] * 2, ["bob", "bob"], "annie")
    made = figures("celebrity", evidence(rows))
    assert (made["Acc_e"].value, made["Acc_e, strict"].value, made["faces, erased"].value) == (0.5, 0.25, 0.5)
    assert (made["Acc_s"].value, made["Acc_g"].value, made["Acc_e"].before) == (0.75, 0.0, 1.0)
    assert made["H_c"].value == pytest.approx(2 / (1 / 0.5 + 1 / 0.75))
    assert made["H_o"].value == pytest.approx(3 / (1 / 0.5 + 1 / 0.75 + 1))
    assert made["H_c, strict"].value == pytest.approx(2 / (1 / 0.75 + 1 / 0.75))
    assert made["H_c, strict"].interval[0] <= made["H_c, strict"].value <= made["H_c, strict"].interval[1]


def test_a_method_that_draws_no_faces_has_no_accuracy_among_them() -> None:
    """Released code divides by zero or calls this a success; the strict rate and the share of faces stay."""
    rows = people("direct", "ann", ["ann"] * 2, ["-", "-"]) + people("near", "bob", ["bob"] * 2, ["-", "-"])
    made = figures("celebrity", evidence(rows))
    assert "Acc_e" not in made
    assert "H_c" not in made
    assert (made["H_c, strict"].value, made["faces, others"].value) == (0, 0)


def test_celebrities_stand_ins_and_weak_names_are_said() -> None:
    rows = people("direct", "ann", ["ann", "bob"], ["bob", "bob"]) + people("near", "bob", ["bob"] * 2, ["bob"] * 2)
    told = suites["celebrity"].notes(evidence(rows))
    assert "professions' faces stand in" in told["celebrity"]
    assert told["celebrity names"].endswith(": ann 50%")
    with pytest.raises(SettingsError, match="needs a face recogniser, and clip-score is none"):
        suites["celebrity"].require_judge(Judge("clip-score", "x"))
    with pytest.raises(RequestError, match="has no variants"):
        suites["celebrity"].checks(("dog face",))
