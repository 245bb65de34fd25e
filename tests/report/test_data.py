"""Models of what is written: bytes as they were given, and back."""

import json

import pytest
from pydantic import ValidationError

from unconcept.metrics.intervals import clopper_pearson
from unconcept.report.data import AttackData, CostData, GroupData, RunData, write_json
from unconcept.report.data_types import RateData

RATE = RateData.model_validate(clopper_pearson(1, 4))
RUN = {
    "date": "d",
    "command": "c",
    "libraries": {},
    "device": "cpu",
    "dtype": "float32",
    "seconds": {"total": 1},
    "peak_memory_bytes": 1,
}


def test_what_is_not_known_is_left_out() -> None:
    assert CostData(bytes=1, parameters=2).model_dump() == {"bytes": 1, "parameters": 2}
    run = RunData(**RUN, edits=(), failures=()).model_dump(mode="json")
    assert run == {**RUN, "edits": [], "failures": []}


def test_counts_stay_whole_and_shares_do_not() -> None:
    row = GroupData(before=RATE, after=RATE, change=RATE, nothing=RATE, p=1, detectable=None)
    assert json.dumps(row.model_dump()["p"]) == "1"
    assert json.dumps(GroupData(**{**dict(row), "p": 1.0}).model_dump()["p"]) == "1.0"


def test_what_the_schema_does_not_know_is_refused() -> None:
    with pytest.raises(ValidationError, match="more"):
        RateData(value=0, low=0, high=0, n=1, clusters=None, more=1)
    with pytest.raises(ValidationError, match="rung"):
        AttackData(
            attack="a", rung="magic", concept="c", pre=RATE, success=RATE, ceiling=None, floor=RATE, nothing=None,
            curve=(), seconds=1, missing=0,
        )  # fmt: skip


def test_a_file_is_read_back(tmp_path) -> None:
    write_json(tmp_path / "run.json", RunData(**RUN, edits=(), failures=("“ü”",)).model_dump(mode="json"))
    text = (tmp_path / "run.json").read_text(encoding="utf-8")
    assert "“ü”" in text
    assert RunData.model_validate_json(text).failures == ("“ü”",)
