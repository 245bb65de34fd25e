"""Complete output files and folders: written under a hidden name and renamed when they are complete."""

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from safetensors import SafetensorError

from .errors import OutputError, WorkerError, require
from .output_lock import output_lock, require_writable_parent

_STATE_FILE = "state.json"
PARTIAL_FILE = "PARTIAL"  # a folder with a file of this name keeps its state, so the run can be resumed
RUN_FILE = "run.json"  # the command that made a run's folder
_OWNERSHIP_FILE = ".unconcept"  # marks every other folder that this program made
_HIDDEN_PART = re.compile(
    r"\.([^/\\]+?)(\.[0-9a-f]{12})?\.part(?=[/\\]|$)"
)  # what a path is called until it is complete
_REMEDY = "free some space or choose another path for --out"
STORE_VARIABLE = "UNCONCEPT_STORE"  # environment variable that moves the store
STORE_REMEDY = f"free some space or choose another place, by --out or, for the store, {STORE_VARIABLE}"


def default_store() -> Path:
    """The folder in UNCONCEPT_STORE, or a folder in the user's cache."""
    place = os.environ.get(STORE_VARIABLE, "")
    message = f"{STORE_VARIABLE}={place}: it is a folder; bench, evaluate, attack and worst-case take a URL by --store"
    require("://" not in place, message, OutputError)
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(place or Path(cache) / "unconcept" / "store")


def require_free_output(out: Path, overwrite: bool) -> None:
    """Raise `OutputError` if `out` exists and may not be replaced, or if its parent cannot be written.

    A folder with files that this program did not write is never replaced.
    """
    require(overwrite or not out.exists(), f"{out} exists: choose another path or pass --overwrite", OutputError)
    ours = (
        not out.is_dir()
        or not any(out.iterdir())
        or any((out / name).exists() for name in (RUN_FILE, _STATE_FILE, PARTIAL_FILE, _OWNERSHIP_FILE))
    )
    require(
        ours,
        f"{out} holds files that this program did not write, and --overwrite would delete them: choose another path or"
        " move them away",
        OutputError,
    )
    require_writable_parent(out)


@contextmanager
def output_errors(place: Path, remedy: str = _REMEDY) -> Iterator[None]:
    """Turn a full disk and similar errors inside the block into an `OutputError` with a remedy."""
    try:
        yield
    except (OSError, SafetensorError) as error:  # safetensors reports a full disk as an error of its own.
        place = Path(_HIDDEN_PART.sub(r"\1", str(place)))
        raise OutputError(f"{place}: {getattr(error, 'strerror', None) or error}; {remedy}") from None


def fsync(path: Path) -> None:
    """Force a file or a folder to the disk."""
    if os.name == "nt" and path.is_dir():  # Windows cannot open folders.
        return
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def rename_durably(part: Path, path: Path) -> None:
    """Replace `path` by the finished file `part` and force both to the disk: a power cut leaves one of them whole."""
    fsync(part)
    part.replace(path)
    fsync(path.parent)


@contextmanager
def atomic_file(path: Path, remedy: str = _REMEDY, durable: bool = False) -> Iterator[Path]:
    """Yield a hidden path beside `path` and rename it to `path` when the block succeeds.

    After an error, `path` is as it was before. With `durable`, a power cut after the return cannot undo the write.
    A full disk and similar errors raise `OutputError`.
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
    """Write bytes through `atomic_file`."""
    with atomic_file(path, remedy, durable) as part:
        part.write_bytes(data)


@contextmanager
def output_file(out: Path, overwrite: bool) -> Iterator[Path]:
    """Like `atomic_file`, at a path that the user chose: `OutputError` if it exists and may not be replaced, or if
    another command is writing it.
    """
    with output_lock(out):
        require_free_output(out, overwrite)
        with atomic_file(out) as part:
            yield part


@contextmanager
def atomic_folder(out: Path, identity: Mapping[str, object], overwrite: bool) -> Iterator[Path]:
    """Yield a hidden folder and rename it to `out` when the block succeeds.

    Ctrl-C and a worker's death leave the hidden folder in place, and a folder with a PARTIAL file keeps its state; the
    same command (same `identity`) resumes in either. After any other error only the results of earlier runs remain.
    `OutputError` if another command is writing the folder.
    """
    with output_lock(out), _written_folder(out, identity, overwrite) as part:
        yield part


def require_usable_folder(out: Path, identity: Mapping[str, object] | None, overwrite: bool) -> None:
    """Raise the `OutputError` that `atomic_folder` would raise before anything is written.

    Without an identity, which is not known yet, any interrupted run may be the same.
    """
    if identity is None:
        if not (out / PARTIAL_FILE).exists():
            require_free_output(out, overwrite)
    elif not _is_resumable(out, _identity_mark(identity)):
        require_free_output(out, overwrite)


def _identity_mark(identity: Mapping[str, object]) -> str:
    return json.dumps(identity, sort_keys=True, default=str)


def _is_resumable(out: Path, mark: str) -> bool:
    """Whether an earlier run with the same identity left its results in a PARTIAL folder."""
    return (out / PARTIAL_FILE).exists() and _read(out / _STATE_FILE) == mark


@contextmanager
def _written_folder(out: Path, identity: Mapping[str, object], overwrite: bool) -> Iterator[Path]:
    mark = _identity_mark(identity)
    part, former = _beside(out, "part"), _beside(out, "former")
    if former.exists() and not out.exists():  # A process was killed between the two renames.
        former.rename(out)
    if _is_resumable(out, mark) and not part.exists():
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
            if not (part / RUN_FILE).exists():
                (part / _OWNERSHIP_FILE).write_text(
                    "made by unconcept: --overwrite may replace this folder\n", encoding="utf-8"
                )
            _replace(out, part)
    except (KeyboardInterrupt, WorkerError):
        raise
    except BaseException:
        _drop(part, fresh)
        raise


def _beside(out: Path, role: str) -> Path:
    return out.parent / f".{out.name}.{role}"


def _replace(out: Path, part: Path) -> None:
    """Put the finished folder in the place of a former one, which is there whole until then."""
    former = _beside(out, "former")
    shutil.rmtree(former, ignore_errors=True)
    if out.exists():
        out.rename(former)
    part.rename(out)
    shutil.rmtree(former, ignore_errors=True)


def _drop(part: Path, fresh: bool) -> None:
    """Delete the hidden folder, unless an earlier run made it: an error must not lose that run's results."""
    if fresh:
        shutil.rmtree(part, ignore_errors=True)


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def is_inside(folder: Path, name: str) -> bool:
    """Whether `name`, relative to the folder and with links followed, is inside it. False for an invalid path."""
    try:
        return (folder / name).resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError):
        return False
