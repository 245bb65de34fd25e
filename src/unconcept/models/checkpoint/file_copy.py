"""Copies of files that are large: sharing their bytes on disk where the file system can."""

import os
import shutil
import sys
from pathlib import Path

_FICLONE = 0x40049409  # Linux: one file's blocks for another, copied when either is written to


def writable_copy(source: Path, target: Path) -> None:
    """A copy that may be written to: a reflink where possible."""
    target.unlink(missing_ok=True)
    if not _reflinked(source, target):
        shutil.copyfile(source, target)


def shared_copy(source: Path, target: Path) -> None:
    """A copy that stays as it is: a reflink or else a hard link where possible.

    Who writes into a hard link writes into the source.
    """
    target.unlink(missing_ok=True)
    if _reflinked(source, target):
        return
    try:
        os.link(source.resolve(), target)
    except OSError:  # Another file system, or one without links.
        shutil.copyfile(source, target)


def _reflinked(source: Path, target: Path) -> bool:
    if sys.platform != "linux":
        return False
    import fcntl

    try:
        with source.open("rb") as old, target.open("wb") as new:
            fcntl.ioctl(new.fileno(), _FICLONE, old.fileno())
    except OSError:
        target.unlink(missing_ok=True)
        return False
    return True
