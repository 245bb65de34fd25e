"""Files and folders that are whole or not there: written under a hidden name, renamed when complete."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from safetensors import SafetensorError

from .errors import OutputError, require

_STATE_FILE = "state.json"
PARTIAL_FILE = "PARTIAL"  # a file of this name keeps the folder's state: it can be gone on with
_RUN_FILE = "run.json"  # what made a run's folder
_OWNERSHIP_FILE = ".unconcept"  # stands in every other folder that was made here
_REMEDY = "free some space or choose another place for --out"


def require_free_output(out: Path, overwrite: bool) -> None:
    """`OutputError` if the folder exists and may not be replaced, as never one of somebody else's, or its parent cannot
    be written.
    """
    require(overwrite or not out.exists(), f"{out} exists: choose another place or pass --overwrite", OutputError)
    ours = (
        not out.is_dir()
        or not any(out.iterdir())
        or any((out / name).exists() for name in (_RUN_FILE, _STATE_FILE, PARTIAL_FILE, _OWNERSHIP_FILE))
    )
    require(
        ours,
        f"{out} holds files that this program did not write: --overwrite would remove them; choose another place or"
        " move them away",
        OutputError,
    )
    parent = out.resolve().parent
    while not parent.exists():
        parent = parent.parent
    require(
        parent.is_dir() and os.access(parent, os.W_OK),
        f"{parent} cannot be written: choose another place for --out",
        OutputError,
    )


@contextmanager
def output_errors(place: Path, remedy: str = _REMEDY) -> Iterator[None]:
    """`OutputError` on a full disk and the like."""
    try:
        yield
    except (OSError, SafetensorError) as error:  # safetensors reports a full disk as an error of its own.
        raise OutputError(f"{place}: {getattr(error, 'strerror', None) or error}; {remedy}") from None


def fsync(path: Path) -> None:
    """Force a file or a folder to the disk."""
    if os.name == "nt" and path.is_dir():  # Windows opens no folder.
        return
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def rename_durably(part: Path, path: Path) -> None:
    """Put a written file in the place of another and force both to the disk: after a power cut one of them is whole."""
    fsync(part)
    part.replace(path)
    fsync(path.parent)


@contextmanager
def atomic_file(path: Path, remedy: str = _REMEDY, durable: bool = False) -> Iterator[Path]:
    """Yield a hidden path beside `path` that takes its place when the block ends well; any error leaves what was there.

    `durable`: when this returns, a power cut cannot undo it. `OutputError` on a full disk and the like.
    """
    part = path.with_name(f".{path.name}.{uuid4().hex[:12]}.part")
    with output_errors(path, remedy):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield part
            if durable:
                rename_durably(part, path)
            else:
                fsync(part)
                part.replace(path)
        finally:
            part.unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes, remedy: str = _REMEDY, durable: bool = False) -> None:
    """`atomic_file` of bytes."""
    with atomic_file(path, remedy, durable) as part:
        part.write_bytes(data)


@contextmanager
def output_file(out: Path, overwrite: bool) -> Iterator[Path]:
    """`atomic_file` at a place that the user chose: `OutputError` if it exists, unless it may be replaced."""
    require_free_output(out, overwrite)
    with atomic_file(out) as part:
        yield part


@contextmanager
def atomic_folder(out: Path, identity: Mapping[str, object], overwrite: bool) -> Iterator[Path]:
    """Yield the hidden folder; rename it to `out` at the end.

    An interrupted run leaves it, a PARTIAL one keeps its state, and the same command (same `identity`) goes on in both;
    any other error leaves only what an earlier sitting had made.
    """
    mark = json.dumps(identity, sort_keys=True, default=str)
    part = out.parent / f".{out.name}.part"
    if (out / PARTIAL_FILE).exists() and _read(out / _STATE_FILE) == mark and not part.exists():
        out.rename(part)
    require_free_output(out, overwrite)
    if part.exists() and _read(part / _STATE_FILE) != mark:
        shutil.rmtree(part)
    fresh = not part.exists()
    try:
        with output_errors(out):
            part.mkdir(parents=True, exist_ok=True)
            (part / _STATE_FILE).write_text(mark, encoding="utf-8")
            yield part
            if not (part / PARTIAL_FILE).exists():
                (part / _STATE_FILE).unlink()
            if not (part / _RUN_FILE).exists():
                (part / _OWNERSHIP_FILE).write_text(
                    "made by unconcept: --overwrite may replace this folder\n", encoding="utf-8"
                )
            if out.exists():
                shutil.rmtree(out)
            part.rename(out)
    except KeyboardInterrupt:
        raise
    except BaseException:
        _drop(part, fresh)
        raise


def _drop(part: Path, fresh: bool) -> None:
    """What an earlier sitting made is not lost to an error of this one."""
    if fresh:
        shutil.rmtree(part, ignore_errors=True)


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def is_inside(folder: Path, name: str) -> bool:
    """Whether a path that counts from the folder is within it, links followed. What is no path at all is not."""
    try:
        return (folder / name).resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError):
        return False
