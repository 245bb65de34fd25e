"""Copies large files, sharing their bytes on disk if the file system can."""

import os
import shutil
import sys
from pathlib import Path

_FICLONE = 0x40049409  # Linux's reflink: two files share blocks until one is written to


def writable_copy(source: Path, target: Path) -> None:
    """Copy a file so that the copy can be written to; a reflink if possible."""
    target.unlink(missing_ok=True)
    if not _reflinked(source, target):
        shutil.copyfile(source, target)


def shared_copy(source: Path, target: Path) -> None:
    """Copy a file that will not be written to: a reflink, or else a hard link, if possible.

    Writing into a hard link would change the source, and so would another mode.
    """
    target.unlink(missing_ok=True)
    if _reflinked(source, target):
        return
    target.touch()
    if target.stat().st_mode == source.stat().st_mode and _linked(source, target):
        return
    shutil.copyfile(source, target)


def _linked(source: Path, target: Path) -> bool:
    target.unlink()
    try:
        os.link(source.resolve(), target)
    except OSError:  # The target is on another file system, or on one without links.
        return False
    return True


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
