"""The callback through which long work reports its progress."""

from collections.abc import Callable

ProgressCallback = Callable[[str, int, int], None]  # name of the work, steps done, steps in all


def ignore_progress(what: str, done: int, of: int) -> None:
    """Do nothing: for callers who want no progress reports."""
