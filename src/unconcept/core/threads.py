"""How many threads torch computes with: the only place that changes it."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def pinned_threads(count: int) -> Iterator[None]:
    """Inside, torch computes on `count` threads; afterwards on as many as before.

    Sums over another number of threads round in another order, so bits that must not change are computed on one.
    """
    import torch  # Here, since core is imported without torch.

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
