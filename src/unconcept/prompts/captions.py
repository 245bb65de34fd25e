"""Caption sets, packaged or from a user's file: captions about nothing in particular.

Methods use them as the prior set, which stands for everything that an edit must not change.
"""

from importlib import resources
from pathlib import Path

from ..core.recipe import FILE_SUFFIXES
from ..core.registry import suggest
from .entries import iter_raw_lines
from .loaders import read_prompts

_MOST_CAPTIONS = 2_000_000  # COCO 2014 has 616 thousand


def packaged_captions() -> dict[str, Path]:
    """The files of the packaged caption sets by name, with one caption a line."""
    folder = Path(str(resources.files(__package__)))
    return {path.stem: path for path in sorted(folder.glob("*.txt"))}


def load_captions(name: str) -> tuple[str, ...]:
    """Load the captions of a packaged set by its name, or of a file in a form of `loaders.py`; "" loads none.

    Repeated captions are kept as in the file.
    """
    if not name:
        return ()
    if not name.lower().endswith(FILE_SUFFIXES):
        return tuple(line.strip() for line in iter_raw_lines(suggest(name, packaged_captions(), "caption set")))
    return tuple(item.text for item in read_prompts(name, group="far", limit=_MOST_CAPTIONS))
