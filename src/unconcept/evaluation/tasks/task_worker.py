"""What a worker on another machine does: it opens the shared store, runs tasks, and sends their scores back."""

import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path

from ...core import pinned_threads
from ...core.errors import UsageError
from .attack import AttackTask
from .draw import DrawTask
from .edit_task import EditTask
from .picture_store import PictureStore
from .remote_files import RemoteFiles
from .scores import ScoreRow, SentScores
from .scratch_folder import ScratchFolder
from .shared_files import SharedFiles, is_url
from .task import Task, attempt

_SCRATCH = "unconcept-worker-"  # start of the name of a worker's own folder


@dataclass(frozen=True)
class WorkerSetup:
    """What a worker has to know of the command that starts it."""

    place: str | Path
    """The store: a folder, which all machines see under the same path, or a URL."""
    pictures: Path
    """Its folder of pictures, unless it is a URL."""
    mark: str
    """A file of the store, by which a worker knows that it sees the same."""
    version: str = field(default_factory=lambda: version("unconcept"))
    threads: int = 1
    """Threads of a task, as in worker processes of one machine."""


@dataclass(frozen=True)
class EditContent:
    """An edit's file on the machine of the command, which others need not see."""

    hash: str
    read: Callable[[], bytes]


@dataclass(frozen=True)
class WorkerResult:
    """How an attempt ended, and the scores that came of it."""

    seconds: float = 0.0
    error: str | None = None
    scores: tuple[tuple[str, ScoreRow], ...] = ()
    """Rows with their scorers."""
    pushed: tuple[str, ...] = ()
    """Names of files that were put to the URL of the store."""
    refusal: str | None = None
    """Why no worker can go on: the store cannot be written, or the machine computes otherwise."""


class TaskWorker:
    """Runs tasks one after the other, with the models that it has opened."""

    def __init__(self, setup: WorkerSetup) -> None:
        self._setup = setup
        self._store: PictureStore | None = None
        self._scores = SentScores()
        self._folder: ScratchFolder | None = None

    def check(self) -> str | None:
        """Open the store, once. Why this worker cannot work; None if it can."""
        setup, host = self._setup, platform.node()
        own = version("unconcept")
        if setup.version != own:
            return f"node {host} has unconcept {own}, the command {setup.version}: install the same one"
        if self._store is not None:
            return None
        try:
            files = SharedFiles.at(setup.place)
            if files.read(setup.mark) is None:
                return f"node {host} does not see the store {files.shown}: name a --store that all nodes share"
            if is_url(setup.place):
                self._store = self._mirror(files)
                return None
            root = Path(setup.place)
            if not setup.pictures.is_relative_to(root) and not setup.pictures.is_dir():
                return f"node {host} does not see {setup.pictures}: choose an --out in a folder that all nodes share"
            self._store = PictureStore(root, setup.pictures, self._scores)
        except UsageError as error:
            return f"node {host}: {error}"
        return None

    def _mirror(self, files: SharedFiles) -> PictureStore:
        """A store of this worker alone before the URL."""
        root = self._scratch / "store"
        return PictureStore(root, None, self._scores, RemoteFiles(files, root, is_listed=False))

    def run(self, task: Task, name: str, edit: EditContent | None) -> WorkerResult:
        """Run a task, which is called `name` on the machine of the command."""
        store = self._store
        if store is None:
            return WorkerResult(refusal=self.check() or "the worker was not checked")
        task = self._placed(task, edit)
        if task.id != name:
            return WorkerResult(
                refusal=f"node {platform.node()} computes otherwise than the machine of the command: both need the"
                " same model files, --device and --dtype"
            )
        try:
            with pinned_threads(self._setup.threads):
                seconds, error = attempt(task, store)
        except UsageError as refused:
            return WorkerResult(refusal=f"node {platform.node()}: {refused}")
        if isinstance(task, EditTask):
            shutil.rmtree(task.folder, ignore_errors=True)
        pushed = store.remote.take_pushed() if store.remote else ()
        return WorkerResult(seconds, error, tuple(self._scores.take()), pushed)

    def close(self) -> None:
        """Remove the worker's own folder."""
        if self._folder is not None:
            self._folder.remove()
            self._folder = None

    @property
    def _scratch(self) -> Path:
        """The worker's own folder, made when it is first needed."""
        self._folder = self._folder or ScratchFolder.make(_SCRATCH)
        return self._folder.path

    def _placed(self, task: Task, edit: EditContent | None) -> Task:
        """The task with its files on this machine, and without names that were computed on another."""
        if isinstance(task, EditTask):
            return replace(task, folder=self._scratch / "made")
        if not isinstance(task, DrawTask | AttackTask):
            return task
        path = task.subject.edit_path if edit is None else str(self._edit_file(edit))
        return replace(task, subject=replace(task.subject, edit_path=path))

    def _edit_file(self, edit: EditContent) -> Path:
        """The edit's file on this machine; one is kept at a time, because a dense edit has gigabytes."""
        path = self._scratch / "edits" / f"{edit.hash}.safetensors"
        if not path.exists():
            shutil.rmtree(path.parent, ignore_errors=True)
            path.parent.mkdir(parents=True)
            path.write_bytes(edit.read())
        return path
