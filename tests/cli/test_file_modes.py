"""Every file that a command writes has the mode that the user's umask gives."""

import ast
import os
import stat
from pathlib import Path

import pytest

import unconcept
from tests import tiny
from tests.cli.test_cli import run
from unconcept.edits.export.export import EXPORT_TARGETS, FOLDER_TARGETS

# What makes files with modes of its own, whatever the umask says.
OWN_MODES = {"save_file", "copy2", "copy", "copytree", "mkstemp", "mkdtemp", "NamedTemporaryFile", "save_pretrained"}
# Temporary folders of their user alone, which are deleted.
ALLOWED = {("jobs/keywords.py", "save_pretrained"), ("evaluation/tasks/scratch_folder.py", "mkdtemp")}


def test_nothing_writes_with_modes_of_its_own() -> None:
    root = Path(unconcept.__file__).parent
    found = set()
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name):
                name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
                owner = ast.unparse(node.func).rpartition(".")[0]
                if name in OWN_MODES and (name != "copy" or owner == "shutil"):
                    found.add((path.relative_to(root).as_posix(), name))
    assert found <= ALLOWED


@pytest.fixture
def umask():
    """A umask that no default gives."""
    former = os.umask(0o027)
    yield 0o027
    os.umask(former)


def test_commands_write_with_the_umask(umask, tmp_path) -> None:
    model = tiny.folder("sd1", tmp_path / "m")
    for path in (tmp_path / "m").rglob("*"):  # as a cache that only its owner may read
        path.chmod(0o700 if path.is_dir() else 0o600)
    out = tmp_path / "out"
    edit = out / "e/edit.safetensors"
    commands = [
        ("erase", "dog", "--anchor", "cat", "--retain", "sea", "--no-report", "--quiet", "--out", out / "e"),
        ("apply", edit, "--out", out / "applied"),
        ("sample", "a dog", "--steps", 1, "--quiet", "--edit", edit, "--out", out / "drawn"),
        ("import", out / "kohya.safetensors", "dog", "--out", out / "imported.safetensors"),
    ]
    for target in EXPORT_TARGETS:
        if target not in ("single-file", "comfyui-lora"):
            name = target if target in FOLDER_TARGETS else f"{target}.safetensors"
            commands.insert(-1, ("export", edit, "--to", target, "--out", out / name))
    for words in commands:
        result = run(*words, "--model", model)
        assert result.exit_code == 0, result.output
    files = [path for path in out.rglob("*") if path.is_file()]
    assert len(files) > 30
    for path in out.rglob("*"):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o777 if path.is_dir() else 0o666) & ~umask, f"{path.relative_to(out)}: {mode:o}"
