"""The callback through which long work reports its progress."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

ProgressCallback = Callable[[str, int, int], None]  # name of the work, steps done, steps in all


def ignore_progress(what: str, done: int, of: int) -> None:
    """Do nothing: for callers who want no progress reports."""


TickCallback = Callable[[float], None]  # what was done since the last call, in units that the callee counts


def ignore_ticks(done: float) -> None:
    """Do nothing: for callers who want no reports of parts."""


@dataclass(frozen=True)
class TaskProgress:
    """How a task that runs in this process reports progress: a task itself only knows the store that it writes to."""

    tell: ProgressCallback = ignore_progress
    """Progress of its own stages, such as a training."""
    tick: TickCallback = ignore_ticks
    """Parts of the task, which add up to its size."""


_task: ContextVar[TaskProgress | None] = ContextVar("task", default=None)
_downloads: ContextVar[ProgressCallback] = ContextVar("downloads", default=ignore_progress)


@contextmanager
def report_downloads(tell: ProgressCallback) -> Iterator[None]:
    """Inside, downloads report to `tell`: a model is opened in so many places that none of them passes it on."""
    token = _downloads.set(tell)
    try:
        yield
    finally:
        _downloads.reset(token)


def downloads_progress() -> ProgressCallback:
    """The callback for downloads."""
    return _downloads.get()


@contextmanager
def report_task(progress: TaskProgress) -> Iterator[None]:
    """Inside, tasks report to `progress`."""
    token = _task.set(progress)
    try:
        yield
    finally:
        _task.reset(token)


def task_progress() -> TaskProgress:
    """The callbacks of the task that runs now."""
    return _task.get() or TaskProgress()
