"""Refuses what only looks like a file: a pipe or a device, which may never end, and links out of a folder."""

import os
import stat
from itertools import pairwise
from pathlib import Path

from .errors import UnconceptError, UsageError, require

_PACKAGE = Path(__file__).parent.parent
_PACKAGE_FILES = Path(os.path.realpath(__file__)).parent.parent  # elsewhere where an installer makes links


def require_regular_file(path: Path, error: type[UnconceptError] = UsageError) -> None:
    """Raise `error` if a path exists and is neither a regular file nor a folder: a pipe, a socket or a device."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return  # Whoever reads a missing file names it.
    regular = stat.S_ISREG(mode) or stat.S_ISDIR(mode)
    require(regular, f"{path} is a pipe, a socket or a device: give a regular file", error)


def require_own_files(folder: Path, error: type[UnconceptError] = UsageError) -> None:
    """Raise `error` if a folder holds a pipe, a socket, a device, or a link to what is outside of it.

    A snapshot in the Hugging Face cache may link to its own repository's blobs, and this package's own folders to where
    an installer keeps its files. Hidden folders at the top are skipped.
    """
    roots = [folder.resolve(), *_hub_blobs(folder.resolve())]
    if folder.is_relative_to(_PACKAGE):
        roots.append(_PACKAGE_FILES)
    for place, folders, files in os.walk(folder):
        if Path(place) == folder:
            folders[:] = [name for name in folders if not name.startswith(".")]
        for path in (Path(place) / name for name in (*folders, *files)):
            if path.is_symlink():
                target = Path(os.path.realpath(path))
                is_within = any(target.is_relative_to(root) for root in roots)
                require(is_within, f"{path} is a link out of its folder, to {target}: put a copy in its place", error)
            require_regular_file(path, error)


def _hub_blobs(folder: Path) -> list[Path]:
    """The folders of blobs to which the files of a snapshot in the Hugging Face cache link."""
    above = [folder, *folder.parents]
    return [
        repository / "blobs"
        for snapshots, repository in pairwise(above)
        if snapshots.name == "snapshots" and repository.name.startswith("models--")
    ]
