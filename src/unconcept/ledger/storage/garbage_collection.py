"""Pauses Python's garbage collector while a long ledger is read."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def gc_paused() -> Iterator[None]:
    """Inside, Python's garbage collector is off: a long ledger is many live objects, and scanning them for garbage
    takes three times as long as reading them.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
