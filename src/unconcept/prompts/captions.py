"""Captions about nothing in particular: the prior set of methods that keep everything else as it is.

Packaged or a user's file.
"""

from importlib import resources
from pathlib import Path

from ..core.recipe import FILE_SUFFIXES
from ..core.registry import suggest
from .entries import iter_raw_lines
from .loaders import read_prompts

_MOST_CAPTIONS = 2_000_000  # COCO 2014 has 616 thousand


def packaged_captions() -> dict[str, Path]:
    """Packaged sets by name: one caption a line."""
    folder = Path(str(resources.files(__package__)))
    return {path.stem: path for path in sorted(folder.glob("*.txt"))}


def load_captions(name: str) -> tuple[str, ...]:
    """The captions of a packaged set, or of a file in a form of `loaders.py`; "" is none.

    Equal ones stay, as the file has them.
    """
    if not name:
        return ()
    if not name.lower().endswith(FILE_SUFFIXES):
        return tuple(line.strip() for line in iter_raw_lines(suggest(name, packaged_captions(), "caption set")))
    return tuple(item.text for item in read_prompts(name, group="far", limit=_MOST_CAPTIONS))
