"""The protocols of tasks and of what runs them: this process, worker processes, or machines of a cluster."""

import time
import traceback
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any, NamedTuple, Protocol

from ...core.errors import OutputError
from .picture_store import PictureStore

_POLL = 1.0  # seconds between two looks for workers that have come


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


class TaskOutcome(NamedTuple):
    """How one attempt at a task ended."""

    task: Task
    seconds: float
    error: str | None
    """Its traceback; None if the task is done."""


class Executor(Protocol):
    """Runs tasks somewhere."""

    def outcomes(self, tasks: Sequence[Task], store: PictureStore, deadline: float | None) -> Generator[TaskOutcome]:
        """Yield how each task ended, as soon as it has. No task starts after `deadline`, a `time.monotonic()` value."""


class Workers(Protocol):
    """Processes that run one task at a time each."""

    def is_free(self) -> bool:
        """Whether a worker waits for a task."""

    def submit(self, task: Task) -> Future[Any]:
        """Give the task to a worker that waits."""

    def outcome(self, future: Future[Any], task: Task) -> TaskOutcome | None:
        """How a task ended; None if its worker was lost with it, so that it has to run again."""


def dispatch(workers: Workers, tasks: Sequence[Task], deadline: float | None) -> Generator[TaskOutcome]:
    """Run tasks on workers in their order, as `Executor.outcomes` does."""
    queue = deque(tasks)
    running: dict[Future[Any], Task] = {}
    while queue or running:
        late = deadline is not None and time.monotonic() > deadline
        while queue and not late and workers.is_free():
            task = queue.popleft()
            running[workers.submit(task)] = task
        if not running:
            if late:
                return
            time.sleep(_POLL / 10)
            continue
        for future in wait(running, _POLL, FIRST_COMPLETED).done:
            task = running.pop(future)
            outcome = workers.outcome(future, task)
            if outcome is None:
                queue.appendleft(task)
            else:
                yield outcome


def attempt(task: Task, store: PictureStore) -> tuple[float, str | None]:
    """Run a task; return its seconds, and the traceback of its error."""
    begun = time.perf_counter()
    try:
        task.run(store)
    except OutputError:  # On a full disk the next task would fail too, so the run ends; the store keeps its results.
        raise
    except Exception as error:  # A failed task is recorded and reported; the others continue.
        return time.perf_counter() - begun, "".join(traceback.format_exception(error))
    return time.perf_counter() - begun, None
