"""Caches of text states, and text states that do not depend on the other texts encoded with them.

On one thread, the encoders give a text's state the same bits for any other texts (`models.text`). Results that must not
depend on these, above all an edit of a set of requests, use the model that `deterministic_text_states` yields.
"""

from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor

from ...core.threads import pinned_threads
from ..model_view import ModelView
from .tokenizer import TextPosition, TokenPosition

TextStateCache = dict[tuple[TextPosition, str], Tensor]  # a text's rows (streams, d), by position and text


class _TextStatesView:
    """A model that encodes no text twice. Everything except `embed` is the model's own."""

    def __init__(self, model: ModelView, known: TextStateCache) -> None:
        self._model, self._known = model, known

    def __getattr__(self, name: str) -> object:
        return getattr(self._model, name)

    def embed(self, texts: Sequence[str], at: TextPosition = "last_subject") -> Tensor:
        """Like the model's `embed`, but cached, except "all", whose states are too large to keep."""
        if at == "all" or not texts:
            return self._model.embed(texts, at)
        new = [text for text in dict.fromkeys(texts) if (at, text) not in self._known]
        if new:
            keys = [(at, text) for text in new]
            self._known.update(zip(keys, self._model.embed(new, at).chunk(len(new)), strict=True))
        return torch.cat([self._known[at, text] for text in texts])


@contextmanager
def deterministic_text_states(model: ModelView, known: TextStateCache | None = None) -> Iterator[ModelView]:
    """Yield the model with cached text states, computing on one thread inside the block.

    `known` is the cache: its states are not encoded again, and new ones are added to it.
    """
    with pinned_threads(1):
        yield cast(ModelView, _TextStatesView(model, {} if known is None else known))


def cached_text_states(
    known: MutableMapping[TokenPosition, dict[str, Tensor]] | None,
    texts: Sequence[str],
    at: TokenPosition,
    encode: Callable[[Sequence[str]], Tensor],
) -> Tensor:
    """Return `encode(texts)`, rows (n, d) at a named position, encoding only texts that the cache `known` lacks.

    Nothing is cached if `known` is None, or for "all", whose states are too large to keep.
    """
    if known is None or at == "all":
        return encode(texts)
    there = known.setdefault(at, {})
    new = [text for text in dict.fromkeys(texts) if text not in there]
    if new:
        there.update(zip(new, encode(new), strict=True))
    return torch.stack([there[text] for text in texts])
