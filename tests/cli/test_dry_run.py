"""`--dry-run` says what a command would do, and writes nothing."""

import json

import pytest
from typer.testing import CliRunner

from unconcept.cli import app


def planned(*words: str) -> dict:
    result = CliRunner().invoke(app, [*words, "--dry-run", "--json", "--quiet"])
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_an_erasure_is_planned(tmp_path) -> None:
    plan = planned("erase", "guitar", "--limit", "1", "--out", str(tmp_path / "o"))
    assert plan["facts"]["targets"].startswith("guitar")
    assert plan["facts"]["method"].startswith("uce (closed-form)")
    assert plan["pictures"] > 0
    assert plan["seconds"] > 0
    assert str(tmp_path / "o/report.html") in plan["files"]
    assert not any(tmp_path.iterdir())


def test_without_a_report_nothing_is_drawn(tmp_path) -> None:
    plan = planned("erase", "guitar", "--method", "esd", "--no-report", "--out", str(tmp_path / "o"))
    assert plan["pictures"] == 0
    assert plan["seconds"] > 0
    assert plan["facts"]["training"].endswith(" steps")
    assert [name.rpartition("/")[2] for name in plan["files"]] == ["edit.safetensors", "run.json"]


def test_a_bench_counts_its_edits(tmp_path) -> None:
    words = ("bench", "guitar", "pizza", "--methods", "uce,rece", "--suite", "smoke", "--limit", "1")
    plan = planned(*words, "--out", str(tmp_path / "o"))
    assert plan["facts"]["edits"] == "4 to make"
    assert plan["pictures"] % 5 == 0
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("words", [("erase", "gitar"), ("bench", "guitar", "--methods", "nothing")])
def test_bad_input_is_refused_as_ever(words, tmp_path) -> None:
    result = CliRunner().invoke(app, [*words, "--dry-run", "--out", str(tmp_path / "o")])
    assert result.exit_code == 2
