"""Runs tasks on workers of other machines, which come and go: what is lost with a worker runs again."""

import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, wait
from itertools import groupby
from operator import itemgetter
from typing import Any, Protocol

from ...core.errors import SettingsError, UsageError, WorkerError
from ...core.progress import ProgressCallback
from .attack import AttackTask
from .draw import DrawTask
from .picture_store import PictureStore
from .task import Task, TaskOutcome, dispatch
from .task_worker import EditContent, WorkerResult, WorkerSetup

MAX_LOSSES = 3  # workers that may be lost with one task, or one after the other while they start
_PATIENCE = 30.0  # seconds until a command says that it waits for the cluster
_LOOK = 2.0  # seconds between two looks at the cluster's size
_ANSWER = 10.0  # seconds within which a worker that is alive answers


class RemoteWorker(Protocol):
    """One worker on a cluster."""

    def check(self) -> Future[str | None]:
        """Why it cannot work; None if it can. Answered once the worker has started."""

    def run(self, task: Task, name: str, edit: EditContent | None) -> Future[WorkerResult]:
        """Run a task that is called `name` here."""

    def close(self) -> Future[None]:
        """Let it remove what it has on its machine."""

    def stop(self) -> None:
        """End it, whatever it does."""


class Cluster(Protocol):
    """Machines that have room for workers."""

    lost: tuple[type[Exception], ...]
    """The exceptions of a future whose worker, or whose machine, is no more."""

    def room(self) -> int:
        """How many workers fit on all machines that are there now."""

    def start(self, setup: WorkerSetup) -> RemoteWorker:
        """Start a worker, as soon as there is room for it."""

    def share(self, data: bytes) -> Callable[[], bytes]:
        """Put bytes where workers can read them."""


class ClusterExecutor:
    """Runs the tasks of a whole run on one cluster; workers keep their models from stage to stage."""

    def __init__(self, cluster: Cluster, mark: str, most: int | None, tell: ProgressCallback) -> None:
        """`mark` is a file by which workers know the store, `most` the largest number of workers; None for all."""
        self._cluster, self._mark, self._most, self._tell = cluster, mark, most, tell
        self._workers: _ClusterWorkers | None = None

    def outcomes(self, tasks: Sequence[Task], store: PictureStore, deadline: float | None) -> Generator[TaskOutcome]:
        """Yield how each task ended, as soon as it has."""
        if not tasks:
            return
        if self._workers is None:
            place = store.remote.files.place if store.remote else store.root
            setup = WorkerSetup(place, store.pictures, self._mark)
            self._workers = _ClusterWorkers(self._cluster, setup, store, self._most, self._tell)
        yield from dispatch(self._workers, tasks, deadline)

    def close(self) -> None:
        """End all workers at once: results are written in one step or not at all."""
        if self._workers is not None:
            self._workers.stop()


class _ClusterWorkers:
    """The workers of a run on a cluster."""

    def __init__(
        self, cluster: Cluster, setup: WorkerSetup, store: PictureStore, most: int | None, tell: ProgressCallback
    ) -> None:
        self._cluster, self._setup, self._store, self._most, self._tell = cluster, setup, store, most, tell
        self._starting: dict[Future[str | None], RemoteWorker] = {}
        self._idle: list[RemoteWorker] = []
        self._busy: dict[Future[Any], RemoteWorker] = {}
        self._losses: Counter[str] = Counter()
        self._failed_starts = 0
        self._looked = self._waits_since = float("-inf")
        self._edits: dict[str, EditContent] = {}

    def is_free(self) -> bool:
        self._welcome()
        if time.monotonic() - self._looked > _LOOK:
            self._looked = time.monotonic()
            self._grow()
        return bool(self._idle)

    def submit(self, task: Task) -> Future[WorkerResult]:
        worker = self._idle.pop()
        future = worker.run(task, task.id, self._edit(task))
        self._busy[future] = worker
        return future

    def outcome(self, future: Future[Any], task: Task) -> TaskOutcome | None:
        worker = self._busy.pop(future)
        try:
            result: WorkerResult = future.result()
        except self._cluster.lost:
            return self._lost(task)
        self._idle.append(worker)
        if result.refusal:
            raise UsageError(result.refusal)
        for scorer, rows in groupby(result.scores, itemgetter(0)):
            self._store.save_scores(scorer, [row for _, row in rows])
        if self._store.remote:
            self._store.remote.learn(result.pushed)
        return TaskOutcome(task, result.seconds, result.error)

    def stop(self) -> None:
        wait([worker.close() for worker in self._idle], _ANSWER)
        for worker in (*self._starting.values(), *self._idle, *self._busy.values()):
            worker.stop()

    def _lost(self, task: Task) -> TaskOutcome | None:
        """After the loss of a worker: with a machine, others may be lost that waited there."""
        answers = {worker.check(): worker for worker in self._idle}
        done = wait(answers, _ANSWER).done
        self._idle = [worker for answer, worker in answers.items() if answer in done and not answer.exception()]
        self._losses[task.id] += 1
        if self._losses[task.id] < MAX_LOSSES:
            self._tell(f"a worker was lost with a task ({task.kind}), which runs again", 1, 1)
            return None
        error = f"WorkerError: {MAX_LOSSES} workers were lost with it one after the other, as when memory runs out"
        return TaskOutcome(task, 0.0, error)

    def _welcome(self) -> None:
        """Let workers that have started wait for tasks."""
        for future in [one for one in self._starting if one.done()]:
            worker = self._starting.pop(future)
            try:
                refusal = future.result()
            except self._cluster.lost as error:
                self._failed_starts += 1
                if self._failed_starts < MAX_LOSSES:
                    continue
                reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
                told = f"{MAX_LOSSES} workers of the cluster were lost while they started, the last with: {reason}"
                raise WorkerError(told) from None
            if refusal:
                raise SettingsError(refusal)
            self._failed_starts = 0
            self._idle.append(worker)

    def _grow(self) -> None:
        """Start as many workers as the cluster now has room for."""
        count = len(self._starting) + len(self._idle) + len(self._busy)
        wanted = self._cluster.room() if self._most is None else min(self._most, self._cluster.room())
        for _ in range(wanted - count):
            worker = self._cluster.start(self._setup)
            self._starting[worker.check()] = worker
        now = time.monotonic()
        if self._idle or self._busy:
            self._waits_since = float("inf")
        elif self._waits_since == float("-inf"):
            self._waits_since = now
        elif now - self._waits_since > _PATIENCE:
            self._waits_since = float("inf")
            self._tell("the cluster has given no worker yet: it starts them, or others use it", 1, 1)

    def _edit(self, task: Task) -> EditContent | None:
        """The edit that a task draws with, put once where workers can read it."""
        if not isinstance(task, DrawTask | AttackTask) or task.subject.edit_path is None:
            return None
        path, name = task.subject.edit_path, str(task.subject.edit_hash)
        if name not in self._edits:
            self._edits[name] = EditContent(name, self._cluster.share(_bytes(path)))
        return self._edits[name]


def _bytes(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()
