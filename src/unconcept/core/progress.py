"""How long work says how far it is."""

from collections.abc import Callable

ProgressCallback = Callable[[str, int, int], None]  # what is done, how many of how many


def ignore_progress(what: str, done: int, of: int) -> None:
    """Shows nothing."""
