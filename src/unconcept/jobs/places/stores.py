"""Where the pictures and scores of a run are: in a folder, or at a URL."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...core.errors import SettingsError, require
from ...core.output_folder import STORE_REMEDY, output_errors
from ...evaluation.tasks.picture_store import PictureStore
from ...evaluation.tasks.remote_files import MirroredScores, RemoteFiles, local_folder
from ...evaluation.tasks.shared_files import SharedFiles, is_url
from ...evaluation.tasks.store_lease import store_lease

_PASSING = "passing-pictures"


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
