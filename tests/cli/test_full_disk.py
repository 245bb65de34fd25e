"""Every command on a full disk: one line that names the place and a remedy, nothing lost, nothing left behind.

The system's limit on the size of a file stands for the disk: it fails inside every library's own writer.
"""

import resource
import shutil
from pathlib import Path

import pytest

from tests import tiny
from tests.cli.test_cli import run

ROOM = (0, 150, 1_000, 12_000)  # bytes of a file: for no lock, no state, no picture, hardly any network
JUDGED = ("--limit", 1, "--batch-size", 2, "--quiet")
CASES = {
    "erase": ("erase", "dog", "--anchor", "cat", "--no-report", "--quiet"),
    "train": (
        *("erase", "dog", "--anchor", "cat", "--no-report", "--quiet"),
        *("--method", "esd", "--set", "iterations=1", "--set", "ddim_steps=2"),
    ),
    "apply": ("apply", "EDIT"),
    "diffusers": ("export", "EDIT", "--to", "diffusers"),
    "peft": ("export", "EDIT", "--to", "peft"),
    "kohya.safetensors": ("export", "EDIT", "--to", "kohya"),
    "comfyui.safetensors": ("export", "EDIT", "--to", "comfyui"),
    "imported.safetensors": ("import", "LORA", "dog"),
    "sample": ("sample", "a dog", "--steps", 1, "--quiet"),
}
SLOW = {
    "report": ("erase", "dog", "--anchor", "cat", *JUDGED),
    "evaluate": ("evaluate", "dog", "--edit", "EDIT", "--suite", "smoke", "--judge", "CLIP", *JUDGED),
    "attack": ("attack", "wordings", "dog", "--edit", "EDIT", "--judge", "CLIP", *JUDGED),
    "bench": ("bench", "dog", "--methods", "uce", "--suite", "smoke", "--judge", "CLIP", *JUDGED),
}


@pytest.fixture(scope="module")
def words(tmp_path_factory) -> dict[str, object]:
    """A model, an edit, a LoRA and a judge."""
    root = tmp_path_factory.mktemp("disk")
    model, edit, lora = tiny.folder("sd1", root / "m"), root / "e/edit.safetensors", root / "l.safetensors"
    for command in ((*CASES["erase"], "--out", root / "e"), ("export", edit, "--to", "kohya", "--out", lora)):
        result = run(*command, "--model", model)
        assert result.exit_code == 0, result.output
    return {"MODEL": model, "EDIT": edit, "LORA": lora, "CLIP": f"clip-score={tiny.clip_folder(root / 'clip')}"}


def on_a_full_disk(room: int, *command: object):
    free = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, free[1]))
    try:
        return run(*command)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, free)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", [*CASES, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_a_full_disk_is_one_line(name, words, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("UNCONCEPT_STORE", str(tmp_path / "store"))
    place = tmp_path / "place"
    place.mkdir()
    out = place / name
    given = [words.get(word, word) for word in {**CASES, **SLOW}[name]]
    command = (*given, "--model", words["MODEL"], "--out", out)
    refused = 0
    for room in ROOM:
        shutil.rmtree(tmp_path / "store", ignore_errors=True)
        result = on_a_full_disk(room, *command, "--overwrite")
        if result.exit_code == 0:
            break
        refused += 1
        assert result.exit_code == 2, result.output
        (line,) = result.stderr.strip().splitlines()
        assert "File too large" in line or "disk I/O error" in line or "disk is full" in line
        assert ": free some space" in line or "; free some space" in line
        assert ".part" not in line
        assert list(place.iterdir()) == []
    assert refused >= 2
    assert run(*command, "--overwrite").exit_code == 0
    whole = content(place)
    assert on_a_full_disk(150, *command, "--overwrite").exit_code == 2
    assert content(place) == whole, "what was there stays"
