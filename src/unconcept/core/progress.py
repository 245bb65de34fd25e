"""The callback through which long work reports its progress."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

ProgressCallback = Callable[[str, int, int], None]  # name of the work, steps done, steps in all


def ignore_progress(what: str, done: int, of: int) -> None:
    """Do nothing: for callers who want no progress reports."""


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
