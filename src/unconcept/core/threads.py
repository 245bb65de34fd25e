"""Sets the number of torch's threads; nothing else in the library changes it."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def pinned_threads(count: int) -> Iterator[None]:
    """Run the block with `count` torch threads and restore the previous number afterwards.

    The number of threads changes the order of summation and so the rounding. Results that must be the same to the bit
    are therefore computed on one thread.
    """
    import torch  # Imported here because core must not import torch.

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
