"""Temporary folders of a process, which a later process removes if theirs was killed."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ...core.output_lock import try_lock

_LOCK = ".lock"  # a file in it, locked as long as the process lives: the kernel releases it, whatever ends the process


@dataclass(frozen=True)
class ScratchFolder:
    """A temporary folder that only this user may read."""

    path: Path
    _lock: int

    @classmethod
    def make(cls, start: str) -> "ScratchFolder":
        """Make one whose name begins with `start`. Others with that beginning go, if their processes were killed."""
        for left in Path(tempfile.gettempdir()).glob(f"{start}*"):
            with _lock_in(left, os.O_RDWR) as lock:
                if lock is not None:
                    shutil.rmtree(left, ignore_errors=True)
        while True:
            path = Path(tempfile.mkdtemp(prefix=start))
            with _lock_in(path, os.O_RDWR | os.O_CREAT) as lock:
                # Another process may have taken it for one that is left, before it was locked.
                if lock is not None and (path / _LOCK).exists():
                    return cls(path, os.dup(lock))

    def remove(self) -> None:
        """Remove it with all that is in it."""
        os.close(self._lock)
        shutil.rmtree(self.path, ignore_errors=True)


@contextmanager
def _lock_in(folder: Path, flags: int) -> Iterator[int | None]:
    """The open lock of a folder; None if a process holds it, or if there is none."""
    try:
        handle = os.open(folder / _LOCK, flags, 0o600)
    except OSError:
        yield None
        return
    try:
        yield handle if try_lock(handle) else None
    finally:
        os.close(handle)
