"""Writes to a ledger's files: durable appends, truncation, the folder's lock, and errors that say what is known."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

from ...core.errors import LedgerError, OutputError
from ...core.output_folder import atomic_file, fsync, output_errors, rename_durably
from ...core.output_lock import program_name, read_holder, try_lock, write_holder
from ...core.regular_files import require_regular_file

LOCK_FILE = "lock"
LEDGER_MODE = 0o600  # of files that hold what was asked, and by whom
_LOCK_TIMEOUT = 10.0  # seconds to wait for another writer
_LOCK_POLL = 0.01  # seconds between two tries
WRITE_REMEDY = "nothing was changed: free some space, or make the folder writable"


def canonical_json(body: Mapping[str, Any]) -> bytes:
    """JSON with sorted keys and no spaces, UTF-8. Without floats, which other languages print differently."""
    return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; the kernel releases it if the process dies.

    `LedgerError` with process, command and time if another one holds it for longer than a write takes.
    """
    with output_errors(folder, WRITE_REMEDY):
        handle = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _wait_for_lock(handle, folder)
        with suppress(OSError):  # Of a full disk, what is to be written says more.
            write_holder(handle, [program_name(), *_command_name(sys.argv[1:])])
        try:
            yield
        finally:
            with suppress(OSError):
                os.ftruncate(handle, 0)
    finally:
        os.close(handle)


def _wait_for_lock(handle: int, folder: Path) -> None:
    end = time.monotonic() + _LOCK_TIMEOUT
    with output_errors(folder, WRITE_REMEDY):
        while not try_lock(handle):
            if time.monotonic() > end:
                holder = read_holder(handle)
                raise LedgerError(f"ledger {folder} is being written by {holder}: wait until it ends, then try again")
            time.sleep(_LOCK_POLL)


def _command_name(words: list[str]) -> list[str]:
    """The name of a ledger's command. Its arguments say who asks for what, and a killed process would leave them."""
    return words[:2] if words[:1] == ["ledger"] else []


def append_durably(path: Path, data: bytes, length: int, mode: int = 0o644, remedy: str = WRITE_REMEDY) -> None:
    """Write `data` after the first `length` bytes, drop what stood there, and sync to the disk.

    An error leaves the file with its first `length` bytes; where even that fails, the error says so.
    """
    with output_errors(path, remedy):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT, mode)
        try:
            _write_at(handle, data, length)
        except OSError as error:
            try:
                os.ftruncate(handle, length)
                os.fsync(handle)
            except OSError:
                raise OutputError(
                    f"{path}: {error.strerror or error}; it is not known whether the entry is on the disk: free some"
                    " space, then run `unconcept ledger verify` and `unconcept ledger status`"
                ) from None
            raise
        finally:
            os.close(handle)


def _write_at(handle: int, data: bytes, length: int) -> None:
    os.ftruncate(handle, length)
    os.lseek(handle, length, os.SEEK_SET)
    written = 0
    while written < len(data):
        written += os.write(handle, data[written:])
    os.fsync(handle)


def write_privately(path: Path, data: bytes, remedy: str) -> None:
    """Replace a file durably by one that only its owner may read."""
    with atomic_file(path, remedy, durable=True) as part:
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, LEDGER_MODE)
        try:
            _write_at(handle, data, 0)
        finally:
            os.close(handle)


def store_by_hash(folder: Path, suffix: str, write: Callable[[Path], None]) -> str:
    """Store what `write` writes durably in a file that only its owner may read. Returns its name without suffix: the
    SHA-256 of its bytes.
    """
    part = folder / f".{os.getpid()}.part"
    with output_errors(folder, WRITE_REMEDY):
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            part.touch(LEDGER_MODE)  # It holds texts that were asked for.
            write(part)
            part.chmod(LEDGER_MODE)
            name = sha256(part.read_bytes()).hexdigest()
            rename_durably(part, folder / f"{name}{suffix}")
        finally:
            part.unlink(missing_ok=True)
    return name


def is_hash(name: str) -> bool:
    """Whether a name that an entry holds is a SHA-256, and so cannot lead out of a folder."""
    return len(name) == 64 and set(name) <= set("0123456789abcdef")


def delete_durably(paths: list[Path], remedy: str) -> None:
    """Delete files that may be gone already, and sync their folders."""
    for folder in {path.parent for path in paths}:
        with output_errors(folder, remedy):
            for path in paths:
                if path.parent == folder:
                    path.unlink(missing_ok=True)
            fsync(folder)


@contextmanager
def ledger_read_errors(path: Path) -> Iterator[None]:
    """Turn an `OSError` inside into a `LedgerError`: the file exists but cannot be read. Refuses pipes and devices."""
    require_regular_file(path, LedgerError)
    try:
        yield
    except OSError as error:
        raise LedgerError(
            f"{path} cannot be read: {error.strerror or error}; make it readable, or restore the ledger from a copy"
        ) from None
