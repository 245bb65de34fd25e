"""The lock on an output: one command writes it at a time, and the next one is told who does."""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from threading import get_ident

from .errors import OutputError, require
from .escapes import shell_text, without_credentials

_held: dict[Path, int] = {}  # locks of this process, with the thread that holds each
_LOCKED_BYTE = 1 << 30  # on Windows, whose locks forbid reading: far behind the holder's record
_PERSONAL = ("--by", "--because", "--recorded-by")  # options whose values no record holds: a killed process leaves it


@contextmanager
def output_lock(out: Path) -> Iterator[None]:
    """Hold the lock of an output file or folder; the kernel releases it if the process dies.

    Raises `OutputError` with process, command and time if another one holds it. A job that holds it may enter again.
    """
    place = _resolved(out)
    file = place.with_name(f".{place.name}.lock")
    if _held.get(file) == get_ident():
        yield
        return
    require_writable_parent(out)
    made = [folder for folder in place.parents if not folder.exists()]
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle = _acquire(file, out)
    except OSError as error:
        _remove_empty(made)
        raise OutputError(f"{out}: {error.strerror or error}; free some space or choose another path") from None
    _held[file] = get_ident()
    try:
        yield
    finally:
        del _held[file]
        _release(file, handle)
        _remove_empty(made)


def _remove_empty(folders: list[Path]) -> None:
    """Remove those folders that the command did not need after all."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def require_writable_parent(out: Path) -> None:
    """Raise `OutputError` unless the output, with the folders above it, can be made."""
    parent = _resolved(out).parent
    while not parent.exists():
        parent = parent.parent
    require(
        parent.is_dir() and os.access(parent, os.W_OK),
        f"{parent} cannot be written: choose another path for --out",
        OutputError,
    )


def _resolved(out: Path) -> Path:
    try:
        return out.resolve()
    except (OSError, RuntimeError, ValueError) as error:  # A loop of links, or a character that no path can hold.
        raise OutputError(f"{out} is no path: {error}; choose another path") from None


def _acquire(file: Path, out: Path) -> int:
    """Lock the file. Its last holder may delete it between opening and locking; then there is a new one to lock."""
    while True:
        handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if not try_lock(handle):
                holder = read_holder(handle)
                raise OutputError(f"{out} is being written by {holder}: wait until it ends, or choose another path")
            if _is_in_place(file, handle):
                _write_own_record(file, handle)
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def try_lock(handle: int) -> bool:
    """Lock an open file, unless another process or thread holds it. The kernel releases it when the file is closed."""
    try:
        if sys.platform == "win32":
            import msvcrt  # This and fcntl exist on one system each.

            os.lseek(handle, _LOCKED_BYTE, os.SEEK_SET)
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _is_in_place(file: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), file.stat())
    except FileNotFoundError:
        return False


def _release(file: Path, handle: int) -> None:
    """Delete the file while it is locked, so that no one locks a file that is about to go; Windows cannot."""
    if sys.platform != "win32":
        file.unlink(missing_ok=True)
    os.close(handle)
    if sys.platform == "win32":
        with suppress(OSError):
            file.unlink()


def _write_own_record(file: Path, handle: int) -> None:
    try:
        write_holder(handle, own_command())
    except OSError:
        file.unlink(missing_ok=True)
        raise


def program_name() -> str:
    """The name of the program that runs."""
    return Path(sys.argv[0]).name or "python"


def own_command() -> list[str]:
    """The command that runs, without what it says of persons and without passwords of URLs."""
    return [program_name(), *map(without_credentials, _without_personal(sys.argv[1:]))]


def _without_personal(words: Sequence[str]) -> Iterator[str]:
    """The words of a command, without what it says of persons."""
    before = ""
    for word in words:
        name, is_assigned, _ = word.partition("=")
        if before in _PERSONAL:
            yield "..."
        else:
            yield f"{name}=..." if is_assigned and name in _PERSONAL else word
        before = word


def write_holder(handle: int, command: Sequence[str]) -> None:
    """Write into a locked file who holds it, by what command and since when."""
    os.ftruncate(handle, 0)
    os.lseek(handle, 0, os.SEEK_SET)
    os.write(handle, json.dumps(holder_record(command)).encode())


def holder_record(command: Sequence[str]) -> dict[str, object]:
    """What a lock says of its holder: this process, by what command and since when."""
    since = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    return {"process": os.getpid(), "command": " ".join(map(shell_text, command)), "since": since}


def read_holder(handle: int) -> str:
    """Name the process that holds a lock, as far as it has said who it is."""
    try:
        os.lseek(handle, 0, os.SEEK_SET)
        record = json.loads(os.read(handle, 1 << 16))
        return f"process {record['process']} (`{record['command']}`, since {record['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
