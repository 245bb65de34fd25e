"""Text states that are known beforehand, and that do not depend on what else is asked.

Encoders read texts so that a state has the same bits whatever is read with it, as long as one thread computes
(`models.text`). What shall be the same whatever it is asked with, an edit of a set of requests above all, is computed
inside `deterministic_text_states`.
"""

from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from .tokenizer import TextPosition, TokenPosition

TextStateCache = dict[tuple[TextPosition, str], Tensor]  # states by where and of what: one text's rows (streams, d)

_open: ContextVar[TextStateCache | None] = ContextVar("alone", default=None)


@contextmanager
def deterministic_text_states(known: TextStateCache | None = None) -> Iterator[TextStateCache]:
    """Inside, what is known of states at named positions is not encoded again, and what is encoded becomes known.

    Whole texts (`at="all"`) are encoded as ever: they are too large to be kept. Everything computes on one thread.
    """
    found: TextStateCache = {} if known is None else known
    threads, token = torch.get_num_threads(), _open.set(found)
    torch.set_num_threads(1)
    try:
        yield found
    finally:
        _open.reset(token)
        torch.set_num_threads(threads)


def encode_unknown(
    read: Callable[[Sequence[str], TextPosition], Tensor], texts: Sequence[str], at: TextPosition
) -> Tensor:
    """What a view's `embed` gives; inside `deterministic_text_states` only what is not known is read."""
    known = _open.get()
    if known is None or at == "all" or not texts:
        return read(texts, at)
    new = [text for text in dict.fromkeys(texts) if (at, text) not in known]
    if new:
        known.update(zip([(at, text) for text in new], read(new, at).chunk(len(new)), strict=True))
    return torch.cat([known[at, text] for text in texts])


def cached_text_states(
    known: MutableMapping[TokenPosition, dict[str, Tensor]] | None,
    texts: Sequence[str],
    at: TokenPosition,
    encode: Callable[[Sequence[str]], Tensor],
) -> Tensor:
    """`encode(texts)`, rows (n, d) of one named position, of which only those not yet `known` are encoded.

    Every position of a text is too much to keep: "all" is encoded anew, and so is everything where `known` is None.
    """
    if known is None or at == "all":
        return encode(texts)
    there = known.setdefault(at, {})
    new = [text for text in dict.fromkeys(texts) if text not in there]
    if new:
        there.update(zip(new, encode(new), strict=True))
    return torch.stack([there[text] for text in texts])
