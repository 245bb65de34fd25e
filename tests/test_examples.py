"""The examples run, and are short."""

import runpy
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))
SLOWEST = ("evaluate_edit", "erase_concept")
WRITTEN = {
    "edit_pipeline": ("dog.png", "dog-erased.png", "edit.safetensors"),
    "erase_concept": ("out/dog-face/report.html",),
    "evaluate_edit": ("out/pizza-smoke/report.html", "out/pizza-attacked/report.html"),
    "ledger": ("out/state/edit.safetensors",),
    "own_method": ("out/half/edit.safetensors",),
}


def test_every_example_is_known() -> None:
    assert [path.stem for path in EXAMPLES] == sorted(WRITTEN)


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=[pytest.mark.slow] if path.stem in SLOWEST else []) for path in EXAMPLES],
    ids=lambda path: path.stem,
)
def test_it_runs(path, tmp_path, monkeypatch) -> None:
    """With the files it names, in at most 25 lines."""
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 25
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(path), run_name="__main__")
    for name in WRITTEN[path.stem]:
        assert (tmp_path / name).exists(), name
