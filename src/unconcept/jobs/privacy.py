"""Pictures and found inputs of explicit concepts: only their scores stay, unless the user asks for more."""

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..core.concept import ConceptKind
from ..core.errors import SettingsError, require
from ..core.output_folder import STORE_REMEDY, output_errors
from ..evaluation.tasks.picture_store import PictureStore
from ..evaluation.tasks.remote_files import MirroredScores, RemoteFiles, local_folder
from ..evaluation.tasks.shared_files import SharedFiles, is_url
from ..evaluation.tasks.store_lease import store_lease

_PASSING = "passing-pictures"


def may_keep_pictures(kinds: Iterable[str], store_pictures: bool) -> bool:
    """Whether pictures of concepts of these kinds may stay after a run."""
    explicit: ConceptKind = "explicit"
    return store_pictures or explicit not in kinds


def why_no_pictures(keeps: bool) -> dict[str, str]:
    """The reason, for the report, if pictures do not stay."""
    return {} if keeps else {"pictures": "pictures of an explicit concept are not kept: --store-pictures keeps them"}


@contextmanager
def run_store(place: str | Path | None, folder: Path, keeps: bool) -> Iterator[PictureStore]:
    """Open the store of a run that writes `folder`: a folder, or a URL, which one command uses at a time.

    If pictures may not stay, they are kept in `folder` until the run ends: an interrupted run goes on with them.
    """
    if place is not None and is_url(place):
        message = "pictures of an explicit concept do not stay, but at a URL they would: name a folder as --store"
        require(keeps, f"{message}, or pass --store-pictures", SettingsError)
        with _store_at_url(str(place)) as store:
            yield store
        return
    passing = None if keeps else folder / _PASSING
    if passing is not None:
        passing.mkdir(mode=0o700, exist_ok=True)
    yield PictureStore(local_folder(place), passing)
    if passing is not None:
        shutil.rmtree(passing)


@contextmanager
def _store_at_url(url: str) -> Iterator[PictureStore]:
    files, root = SharedFiles.at(url), local_folder(url)
    with output_errors(root, STORE_REMEDY):
        root.mkdir(parents=True, exist_ok=True)
    with store_lease(files):
        remote = RemoteFiles(files, root)
        yield PictureStore(root, None, MirroredScores(remote, root), remote)
