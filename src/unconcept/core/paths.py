"""Paths that a file names. Files come from strangers: what one names stays beside it or below."""

from pathlib import Path


def stays_in(folder: Path, name: str) -> bool:
    """Whether a path that counts from the folder is within it, links followed. What is no path at all is not."""
    try:
        return (folder / name).resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError):
        return False
