"""The verdict counts, and says no more."""

import ast
import re
from pathlib import Path

import pytest

import unconcept
from unconcept.attacks import attacks
from unconcept.metrics.intervals import clopper_pearson
from unconcept.report.data import AttackData, CostData, EditData, GroupData, TrialData
from unconcept.report.data_types import RateData
from unconcept.report.html import GROUP_MEANINGS
from unconcept.report.verdict import NOT_JUDGED, verdict

SOURCE = Path(unconcept.__file__).parent
BARRED = re.compile(r"\b(gone|removed|certified|compliant)\b", re.IGNORECASE)
EDIT = EditData(
    method="uce", settings={}, targets=("kettle",), anchors=(), retain=(), kind="object", family="sd1", base="b",
    base_hash="0", version="1", report={}, licence="", hash="0", strength=1,
)  # fmt: skip


def rate(hits: int, n: int) -> RateData:
    return RateData.model_validate(clopper_pearson(hits, n))


def group(before: int, after: int, n: int) -> GroupData:
    return GroupData(before=rate(before, n), after=rate(after, n), change=rate(0, n), nothing=rate(0, n), p=1)


def attack(name: str, hits: int, n: int) -> AttackData:
    found = rate(hits, n)
    return AttackData(
        attack=name, rung="text", concept="kettle", pre=found, success=found, ceiling=None, floor=found, nothing=None,
        curve=(), seconds=1, missing=0,
    )  # fmt: skip


def trial(
    groups: dict[str, GroupData], rows: tuple[AttackData, ...] = (), not_asked: tuple[str, ...] = ()
) -> TrialData:
    return TrialData(
        label="uce", concepts=("kettle",), edit=EDIT, cost=CostData(bytes=1, parameters=1), asked=1, answered=1,
        calibration=None, groups=groups, not_asked=dict.fromkeys(not_asked, ""), figures=(), attacks=rows, checks=(),
    )  # fmt: skip


def test_what_is_not_drawn_keeps_its_bound() -> None:
    first, *_ = verdict(trial({"direct": group(24, 0, 24)}), GROUP_MEANINGS)
    assert first == "Not drawn in 24 of 24 direct prompts [drawn in up to 14%]; before: drawn in 24 of 24."


def test_what_is_still_drawn_is_said_first() -> None:
    first, *_ = verdict(trial({"direct": group(24, 3, 24)}), GROUP_MEANINGS)
    assert first.startswith("Still drawn in 3 of 24 direct prompts [")


def test_groups_and_attacks_are_counted() -> None:
    groups = {"direct": group(8, 0, 8), "synonym": group(8, 2, 8), "near": group(8, 7, 8), "far": group(8, 8, 8)}
    rows = (attack("wordings", 0, 8), attack("p4d", 5, 8))
    said = verdict(trial(groups, rows, ("other-language",)), GROUP_MEANINGS)
    assert "Drawn when asked for otherwise: synonyms 2 of 8 (before 8)." in said
    assert "Kept: near 7 of 8 (before 8), far 8 of 8 (before 8)." in said
    assert "Came back under: p4d in 5 of 8 prompts." in said
    assert "Did not come back under: wordings in 0 of 8 [up to 37%] prompts." in said
    (left,) = [line for line in said if line.startswith("Not tried: ")]
    assert "p4d" not in left
    assert "resurgence" in left
    assert left.endswith("prompts other languages.")


def test_what_is_drawn_instead_is_named_by_share() -> None:
    found = trial({"direct": group(10, 0, 10)}).model_copy(
        update={"instead": {"pot": 4, "cup": 2, "nothing": 1, "vase": 1, "<b>": 1, "key": 1}}
    )
    said = verdict(found, GROUP_MEANINGS)
    assert said[1] == "Drawn instead: pot 40%, cup 20%, nothing 10%, vase 10%, others 20% of 10 pictures."


def test_without_a_judge_nothing_is_claimed() -> None:
    said = verdict(trial({}), GROUP_MEANINGS)
    assert said[0] == NOT_JUDGED
    assert len(said) == 2
    assert all(name in said[1] for name in attacks)


@pytest.mark.parametrize("path", sorted((SOURCE / "report/templates").iterdir()), ids=lambda path: path.name)
def test_templates_promise_nothing(path) -> None:
    assert not BARRED.findall(re.sub(r"\{#.*?#\}", "", path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("path", sorted((SOURCE / "report").glob("*.py")), ids=lambda path: path.name)
def test_texts_of_reports_promise_nothing(path) -> None:
    texts = [n.value for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.Constant)]
    assert not [text for text in texts if isinstance(text, str) and BARRED.search(text)]
