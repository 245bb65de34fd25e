"""A checkpoint that was edited elsewhere is measured beside our own edits, in one table."""

import json
from pathlib import Path

import pytest

from tests import tiny
from tests.cli.test_bad_models import ERASE, refused
from tests.cli.test_cli import run

pytestmark = pytest.mark.slow
RIVALS = ("folder", "file")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A model, our edit of it, the same edit as others would publish it, and both imported."""
    root = tmp_path_factory.mktemp("rivals")
    tiny.folder("sd1", root / "model")
    tiny.clip_folder(root / "clip")
    (root / "theirs").mkdir()
    model = ("--model", root / "model")
    edit = root / "ours" / "edit.safetensors"
    for words in (
        (*ERASE, *model, "--out", root / "ours"),
        ("apply", edit, *model, "--out", root / "theirs/folder"),
        ("export", edit, *model, "--to", "single-file", "--out", root / "theirs/file.safetensors"),
        ("import", root / "theirs/folder", "dog", "--anchor", "cat", *model, "--out", root / "folder.safetensors"),
        (
            "import",
            root / "theirs/file.safetensors",
            "dog",
            "--anchor",
            "cat",
            *model,
            "--out",
            root / "file.safetensors",
        ),
    ):
        result = run(*words)
        assert result.exit_code == 0, result.stderr
    assert "weights differ from model" in result.stdout
    return root


def table(place: Path, out: Path, *words: object) -> dict[str, dict[str, object]]:
    """The rows of a command's report, by label."""
    judge = ("--judge", f"clip-score={place / 'clip'}", "--limit", 2, "--workers", 1, "--quiet")
    result = run(*words, "--model", place / "model", *judge, "--out", out)
    assert result.exit_code == 0, result.stderr
    return {trial["label"]: trial for trial in json.loads((out / "report.json").read_text())["trials"]}


def edits(place: Path) -> list[object]:
    return [word for name in RIVALS for word in ("--edit", place / f"{name}.safetensors")]


def test_evaluate(place, tmp_path) -> None:
    """The same edit, wherever it was made, has the same answers."""
    ours = place / "ours" / "edit.safetensors"
    rows = table(place, tmp_path / "o", "evaluate", "dog", "--edit", ours, *edits(place), "--suite", "smoke")
    assert set(rows) == {"ours", *RIVALS}
    for name in RIVALS:
        assert rows[name]["groups"] == rows["ours"]["groups"]
        assert rows[name]["edit"]["method"] == "imported"
    page = (tmp_path / "o/report.html").read_text()
    assert all(name in page for name in rows)


def test_attack(place, tmp_path) -> None:
    rows = table(place, tmp_path / "o", "attack", "wordings", "dog", *edits(place))
    assert {row["attack"] for name in RIVALS for row in rows[name]["attacks"]} == {"wordings"}
    assert rows["folder"]["attacks"] == rows["file"]["attacks"]


def test_bench(place, tmp_path) -> None:
    """Beside a method, in the rows of the concepts that it erases."""
    words = ("bench", "dog", "sea", "--methods", "uce", *edits(place), "--suite", "smoke")
    result = table(place, tmp_path / "o", *words)
    assert set(result) == {"uce", *RIVALS}
    report = json.loads((tmp_path / "o/report.json").read_text())
    assert sorted((trial["label"], *trial["concepts"]) for trial in report["trials"]) == [
        ("file", "dog"),
        ("folder", "dog"),
        ("uce", "dog"),
        ("uce", "sea"),
    ]
    assert (tmp_path / "o/report.html").read_text().count("folder") > 1
    refused(
        tmp_path / "p",
        *("bench", "sea", "--methods", "uce", *edits(place), "--model", place / "model"),
        *("--judge", f"clip-score={place / 'clip'}", "--quiet"),
        said="erases dog, which is none of the requests",
    )
