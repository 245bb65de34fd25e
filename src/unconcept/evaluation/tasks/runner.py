"""Runs planned tasks in this process or in workers, and records in SQLite which are done.

A task is a pure function of plain data that puts its results in the store. The record lets a killed run resume with the
same chunks, so that it ends in the same report.
"""

import ast
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ...core import pinned_threads
from ...core.errors import OutputError, RequestError, WorkerError, require
from ...core.progress import ProgressCallback, TaskProgress, ignore_progress, report_task
from .picture_store import PictureStore, sqlite_transaction

MAX_TASK_ATTEMPTS = 3
RECORD_FILE = "record.sqlite"  # file of the `TaskRecord` in the folder of a run


class Task(Protocol):
    """One unit of work, picklable, named by its content."""

    @property
    def id(self) -> str: ...

    @property
    def kind(self) -> str: ...

    @property
    def size(self) -> int:
        """Number of pictures or inputs that it makes."""

    def is_done(self, store: PictureStore) -> bool:
        """Whether the store holds all its results. Only the store counts, not the record."""

    def run(self, store: PictureStore) -> None: ...


class TaskRecord:
    """Records which tasks of a run are planned, done or failed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with sqlite_transaction(path) as table:
            table.execute("CREATE TABLE IF NOT EXISTS plans (name TEXT PRIMARY KEY, body TEXT)")
            table.execute(
                "CREATE TABLE IF NOT EXISTS tasks (id TEXT PRIMARY KEY, kind TEXT, status TEXT, attempts INTEGER, error"
                " TEXT, seconds REAL)"
            )

    def plan(self, name: str, make: Callable[[], object]) -> object:
        """The stored plan of that name; makes and stores it if there is none."""
        with sqlite_transaction(self.path) as table:
            found = table.execute("SELECT body FROM plans WHERE name = ?", (name,)).fetchone()
            if found is None:
                found = (json.dumps(make()),)
                table.execute("INSERT INTO plans VALUES (?, ?)", (name, *found))
        return json.loads(found[0])

    def done(self, ids: Sequence[str]) -> set[str]:
        """The tasks among `ids` that are done."""
        with sqlite_transaction(self.path) as table:
            return {row[0] for row in table.execute("SELECT id FROM tasks WHERE status = 'done'")} & set(ids)

    def failures(self) -> dict[str, tuple[int, str]]:
        """Failed tasks by id: how often each failed, and its last error."""
        with sqlite_transaction(self.path) as table:
            rows = table.execute("SELECT id, attempts, error FROM tasks WHERE status = 'failed'")
            return {name: (attempts, error.splitlines()[-1]) for name, attempts, error in rows}

    def record_attempt(self, task: Task, seconds: float, error: str | None = None) -> None:
        """Record one attempt at a task."""
        status = "failed" if error else "done"
        with sqlite_transaction(self.path) as table:
            table.execute(
                "INSERT INTO tasks VALUES (?, ?, ?, 1, ?, ?) ON CONFLICT (id) DO UPDATE SET status = excluded.status, "
                "attempts = attempts + 1, error = excluded.error, seconds = coalesce(seconds, 0) + excluded.seconds",
                (task.id, task.kind, status, error, seconds),
            )

    def seconds(self) -> dict[str, float]:
        """Wall-clock seconds by kind of task, over all attempts and all resumed runs."""
        with sqlite_transaction(self.path) as table:
            return dict(table.execute("SELECT kind, sum(seconds) FROM tasks GROUP BY kind"))


@dataclass(frozen=True)
class TaskTally:
    """The outcome of a stage: how many tasks are done, failed and left."""

    done: int = 0
    failed: tuple[str, ...] = ()
    """One line for each failed task."""
    left: int = 0
    """Number of tasks that were not started before the deadline."""

    @property
    def complete(self) -> bool:
        return not self.failed and not self.left

    def __add__(self, other: "TaskTally") -> "TaskTally":
        return TaskTally(self.done + other.done, self.failed + other.failed, self.left + other.left)


def run_tasks(
    tasks: Sequence[Task],
    store: PictureStore,
    record: TaskRecord,
    workers: int = 1,
    deadline: float | None = None,
    tell: ProgressCallback = ignore_progress,
) -> TaskTally:
    """Run the tasks whose results the store lacks. No task starts after `deadline`, a `time.monotonic()` value."""
    finished = {task.id for task in tasks if task.is_done(store)}
    open_ = [task for task in tasks if task.id not in finished]
    given_up = {name: error for name, (attempts, error) in record.failures().items() if attempts >= MAX_TASK_ATTEMPTS}
    refused = tuple(
        f"{task.kind}: failed {MAX_TASK_ATTEMPTS} times, last with {given_up[task.id]}; fix the cause and choose"
        " another --out"
        for task in open_
        if task.id in given_up
    )
    waiting = [task for task in open_ if task.id not in given_up]
    total, made = sum(task.size for task in tasks), sum(task.size for task in tasks if task.id in finished)
    failed: list[str] = []
    count = 0
    part = 0.0  # of the task that runs in this process now

    def tick(done: float) -> None:
        nonlocal part
        part += done
        tell(waiting[count].kind, int(made + part), total)

    with closing(_results(waiting, store, workers, deadline)) as results, report_task(TaskProgress(tell, tick)):
        for task, seconds, error in results:
            record.record_attempt(task, seconds, error)
            count += 1
            made, part = made + task.size, 0.0
            failed += [f"{task.kind}: {error.splitlines()[-1]}"] if error else []
            tell(task.kind, made, total)
    return TaskTally(len(finished) + count - len(failed), refused + tuple(failed), len(waiting) - count)


def _results(
    tasks: Sequence[Task], store: PictureStore, workers: int, deadline: float | None
) -> Generator[tuple[Task, float, str | None]]:
    if workers <= 1 or len(tasks) <= 1:
        for task in tasks:
            if deadline is not None and time.monotonic() > deadline:
                return
            yield task, *_run(task, store)
        return
    with _pool(min(workers, len(tasks))) as pool:
        queue = list(reversed(tasks))
        running: dict[Future[tuple[float, str | None]], Task] = {}
        while queue or running:
            late = deadline is not None and time.monotonic() > deadline
            while queue and len(running) < workers and not late:
                task = queue.pop()
                running[pool.submit(_run_in_worker, task, store.root, store.pictures)] = task
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                task = running.pop(future)
                yield task, *_outcome(future, task, workers)


def _outcome(future: Future[tuple[float, str | None]], task: Task, workers: int) -> tuple[float, str | None]:
    try:
        return future.result()
    except BrokenProcessPool:
        raise WorkerError(
            f"one of {workers} workers died during {task.kind}, as when memory runs out; all finished results are kept:"
            " run the same command again to continue, with fewer --workers if memory is short"
        ) from None


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


def _run_in_worker(task: Task, root: Path, pictures: Path) -> tuple[float, str | None]:
    with pinned_threads(1):
        return _run(task, PictureStore(root, pictures))


def _run(task: Task, store: PictureStore) -> tuple[float, str | None]:
    begun = time.perf_counter()
    try:
        task.run(store)
    except OutputError:  # On a full disk the next task would fail too, so the run ends; the store keeps its results.
        raise
    except Exception as error:  # A failed task is recorded and reported; the others continue.
        return time.perf_counter() - begun, "".join(traceback.format_exception(error))
    return time.perf_counter() - begun, None


def default_workers(pictures: int, device: str) -> int:
    """Choose the number of workers. On a CPU several pay off once there are enough pictures to outweigh their start."""
    on_cpu = device == "cpu"
    return min(os.cpu_count() or 1, max(1, pictures // 150)) if on_cpu else 1
