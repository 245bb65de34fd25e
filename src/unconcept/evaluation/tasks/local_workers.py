"""Runs tasks in this process, or in worker processes of this machine."""

import ast
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core import pinned_threads
from ...core.errors import RequestError, WorkerError, require
from .picture_store import PictureStore
from .scores import ScoreRow, SentScores
from .task import Task, TaskOutcome, attempt, dispatch

_Attempt = tuple[float, str | None, list[tuple[str, ScoreRow]]]  # seconds, error, rows with their scorers


@dataclass(frozen=True)
class LocalExecutor:
    """Runs tasks on this machine: one after the other in this process, or several at once in worker processes."""

    workers: int = 1

    def outcomes(self, tasks: Sequence[Task], store: PictureStore, deadline: float | None) -> Generator[TaskOutcome]:
        """Yield how each task ended; `WorkerError` if a worker dies."""
        if self.workers > 1 and len(tasks) > 1:
            count = min(self.workers, len(tasks))
            with _pool(count) as pool:
                yield from dispatch(_PoolWorkers(pool, store, count), tasks, deadline)
            return
        for task in tasks:
            if deadline is not None and time.monotonic() > deadline:
                return
            yield TaskOutcome(task, *attempt(task, store))


class _PoolWorkers:
    """The workers of a pool of processes."""

    def __init__(self, pool: ProcessPoolExecutor, store: PictureStore, count: int) -> None:
        self._pool, self._store, self._count = pool, store, count
        self._busy = 0

    def is_free(self) -> bool:
        return self._busy < self._count

    def submit(self, task: Task) -> Future[_Attempt]:
        self._busy += 1
        return self._pool.submit(_run_in_worker, task, self._store.root, self._store.pictures, bool(self._store.remote))

    def outcome(self, future: Future[Any], task: Task) -> TaskOutcome:
        self._busy -= 1
        try:
            seconds, error, scores = future.result()
        except BrokenProcessPool:
            raise WorkerError(
                f"one of {self._count} workers died during {task.kind}, as when memory runs out; all finished results"
                " are kept: run the same command again to continue, with fewer --workers if memory is short"
            ) from None
        for scorer, row in scores:
            self._store.save_scores(scorer, [row])
        if self._store.remote:
            task.is_done(self._store)  # What a worker has put into the folder goes to the URL.
        return TaskOutcome(task, seconds, error)


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """A pool of new processes with one thread each: on a CPU they draw faster than one process with many threads.

    If the run ends early, the workers are terminated at once. That is safe: results are written in one step or not at
    all.
    """
    require_main_guard()
    others = {*multiprocessing.active_children()}
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _begin)
    try:
        yield pool
    except BaseException:
        for worker in {*multiprocessing.active_children()} - others:
            worker.terminate()
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def require_main_guard() -> None:
    """`RequestError` in a script without a `__main__` guard: each worker would import it, and run it again."""
    script = getattr(sys.modules["__main__"], "__file__", None)
    if script is None or not str(script).endswith(".py") or not Path(script).is_file():
        return
    tests = [node.test for node in ast.parse(Path(script).read_text(encoding="utf-8")).body if isinstance(node, ast.If)]
    names = {child.id for test in tests for child in ast.walk(test) if isinstance(child, ast.Name)}
    require(
        "__name__" in names,
        f'{script} draws in worker processes, which import it: put what it runs under `if __name__ == "__main__":`, or'
        " pass workers=1",
        RequestError,
    )


def _begin() -> None:
    """Ignore Ctrl-C in a worker: a terminal sends it to every process, and the parent ends the workers.

    A parent that is killed cannot: the worker then ends by itself.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run_in_worker(task: Task, root: Path, pictures: Path, sends_scores: bool) -> _Attempt:
    """Run a task; scores are sent to the parent where it alone knows the place of the table."""
    sent = SentScores()
    with pinned_threads(1):
        seconds, error = attempt(task, PictureStore(root, pictures, sent if sends_scores else None))
    return seconds, error, sent.take()
