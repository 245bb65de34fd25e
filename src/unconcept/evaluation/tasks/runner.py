"""Runs planned tasks by an executor, and records in SQLite which are done.

A task is a pure function of plain data that puts its results in the store. The record lets a killed run resume with the
same chunks, so that it ends in the same report.
"""

import json
import os
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from ...core.progress import ProgressCallback, TaskProgress, ignore_progress, report_task
from .local_workers import LocalExecutor
from .picture_store import PictureStore
from .scores import sqlite_transaction
from .task import Executor, Task

MAX_TASK_ATTEMPTS = 3
RECORD_FILE = "record.sqlite"  # file of the `TaskRecord` in the folder of a run


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
    executor: Executor | None = None,
) -> TaskTally:
    """Run the tasks whose results the store lacks. No task starts after `deadline`, a `time.monotonic()` value.

    They run in `workers` processes of this machine, or where an `executor` runs them.
    """
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

    outcomes = (executor or LocalExecutor(workers)).outcomes(waiting, store, deadline)
    with closing(outcomes), report_task(TaskProgress(tell, tick)):
        for task, seconds, error in outcomes:
            record.record_attempt(task, seconds, error)
            count += 1
            made, part = made + task.size, 0.0
            failed += [f"{task.kind}: {error.splitlines()[-1]}"] if error else []
            tell(task.kind, made, total)
    return TaskTally(len(finished) + count - len(failed), refused + tuple(failed), len(waiting) - count)


def default_workers(pictures: int, device: str) -> int:
    """Choose the number of workers. On a CPU several pay off once there are enough pictures to outweigh their start."""
    on_cpu = device == "cpu"
    return min(os.cpu_count() or 1, max(1, pictures // 150)) if on_cpu else 1
