"""Single files that are replaced whole."""

import os
import stat
from pathlib import Path

import pytest

from unconcept.core.errors import OutputError
from unconcept.core.output_folder import atomic_file, atomic_folder, output_file, write_atomically


def _stop_midway(path: Path, durable: bool) -> None:
    with atomic_file(path, durable=durable) as part:
        part.write_bytes(b"sec")
        raise ValueError("midway")


@pytest.mark.parametrize("durable", [True, False])
def test_an_error_leaves_the_former_file_and_no_piece(durable, tmp_path) -> None:
    path = tmp_path / "new folder" / "a.json"
    write_atomically(path, b"first", durable=durable)
    with pytest.raises(ValueError, match="midway"):
        _stop_midway(path, durable)
    assert [(one.name, one.read_bytes()) for one in path.parent.iterdir()] == [("a.json", b"first")]


def test_a_full_disk_is_named_with_the_remedy(tmp_path) -> None:
    said = r"a\.json: No space left on device; take another disk"
    with pytest.raises(OutputError, match=said), atomic_file(tmp_path / "a.json", "take another disk"):
        raise OSError(28, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_two_writers_of_one_file_never_mix(tmp_path) -> None:
    path = tmp_path / "a"
    with atomic_file(path) as first, atomic_file(path) as second:
        first.write_bytes(b"1")
        second.write_bytes(b"2")
    assert path.read_bytes() == b"1"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("durable", [True, False])
def test_a_file_is_on_the_disk_before_it_is_seen(durable, tmp_path, monkeypatch) -> None:
    """The folder is forced to the disk too where a power cut must not undo the renaming."""
    done = []
    monkeypatch.setattr(os, "fsync", lambda handle: done.append(stat.S_ISDIR(os.fstat(handle).st_mode)))
    with atomic_file(tmp_path / "a", durable=durable) as part:
        part.write_bytes(b"1")
    assert done == [False, True] if durable else done == [False]


def test_a_place_that_is_taken_is_refused_before_anything_is_written(tmp_path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"theirs")
    with pytest.raises(OutputError, match="exists: choose another path or pass --overwrite"), output_file(path, False):
        raise AssertionError
    with output_file(path, True) as part:
        part.write_bytes(b"ours")
    assert path.read_bytes() == b"ours"


class Killed(BaseException):
    """Nothing catches it."""


def test_a_kill_between_two_renames_loses_neither_folder(tmp_path, monkeypatch) -> None:
    out, rename = tmp_path / "o", Path.rename

    def write(text: str) -> None:
        with atomic_folder(out, {"it": text}, overwrite=True) as folder:
            (folder / "a").write_text(text)

    def die(self: Path, target: Path) -> Path:
        if target == out:
            raise Killed
        return rename(self, target)

    write("first")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", die)
        with pytest.raises(Killed):
            write("second")
    assert not out.exists()
    with pytest.raises(OutputError, match="exists"), atomic_folder(out, {"it": "third"}, overwrite=False):
        raise AssertionError
    assert (out / "a").read_text() == "first"
    write("third")
    assert (out / "a").read_text() == "third"
    assert list(tmp_path.iterdir()) == [out]
