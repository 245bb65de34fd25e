"""Text states that do not depend on what else is asked: each text is encoded by itself, on one thread.

Batched with others, a text's state differs in its last bits from the one it has alone. What shall be the same whatever it is
asked with, an edit of a set of requests above all, is computed inside `one_by_one`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from .tokens import Place

Known = dict[tuple[Place, str], Tensor]  # states by where and of what: one text's rows (streams, d)

_open: ContextVar[Known | None] = ContextVar("alone", default=None)


@contextmanager
def one_by_one(known: Known | None = None) -> Iterator[Known]:
    """Inside, what is known of states at named positions is not encoded again, and what is encoded becomes known.

    Whole texts (`at="all"`) are encoded as ever: they are too large to be kept. Everything computes on one thread.
    """
    found: Known = {} if known is None else known
    threads, token = torch.get_num_threads(), _open.set(found)
    torch.set_num_threads(1)
    try:
        yield found
    finally:
        _open.reset(token)
        torch.set_num_threads(threads)


def each(read: Callable[[Sequence[str], Place], Tensor], texts: Sequence[str], at: Place) -> Tensor:
    """What a view's `embed` gives: of all texts at once, or inside `one_by_one` of one after the other."""
    known = _open.get()
    if known is None or at == "all" or not texts:
        return read(texts, at)
    for text in dict.fromkeys(texts):
        if (at, text) not in known:
            known[at, text] = read([text], at)
    return torch.cat([known[at, text] for text in texts])
