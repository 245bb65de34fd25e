"""Pictures and found inputs of explicit concepts: only their scores stay, unless the user asks for more."""

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..core.concept import ConceptKind
from ..core.output_folder import default_store
from ..evaluation.tasks.picture_store import PictureStore

_PASSING = "passing-pictures"


def may_keep_pictures(kinds: Iterable[str], store_pictures: bool) -> bool:
    """Whether pictures of concepts of these kinds may stay after a run."""
    explicit: ConceptKind = "explicit"
    return store_pictures or explicit not in kinds


def why_no_pictures(keeps: bool) -> dict[str, str]:
    """The reason, for the report, if pictures do not stay."""
    return {} if keeps else {"pictures": "pictures of an explicit concept are not kept: --store-pictures keeps them"}


@contextmanager
def run_store(root: Path | None, folder: Path, keeps: bool) -> Iterator[PictureStore]:
    """Open the store of a run that writes `folder`.

    If pictures may not stay, they are kept in `folder` until the run ends: an interrupted run goes on with them.
    """
    passing = None if keeps else folder / _PASSING
    if passing is not None:
        passing.mkdir(mode=0o700, exist_ok=True)
    yield PictureStore(root or default_store(), passing)
    if passing is not None:
        shutil.rmtree(passing)
