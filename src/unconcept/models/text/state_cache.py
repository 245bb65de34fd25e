"""Text states that are known beforehand, and that do not depend on what else is asked.

Encoders read texts so that a state has the same bits whatever is read with it, as long as one thread computes
(`models.text`). What must be the same whatever it is asked with, an edit of a set of requests above all, is computed
with the model that `deterministic_text_states` yields.
"""

from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor

from ...core.threads import pinned_threads
from ..model_view import ModelView
from .tokenizer import TextPosition, TokenPosition

TextStateCache = dict[tuple[TextPosition, str], Tensor]  # states by where and of what: one text's rows (streams, d)


class _TextStatesView:
    """A model that encodes no text twice. All but `embed` is the model's own."""

    def __init__(self, model: ModelView, known: TextStateCache) -> None:
        self._model, self._known = model, known

    def __getattr__(self, name: str) -> object:
        return getattr(self._model, name)

    def embed(self, texts: Sequence[str], at: TextPosition = "last_subject") -> Tensor:
        """As the model's; only what is not known is encoded. Whole texts always are: they are too large to keep."""
        if at == "all" or not texts:
            return self._model.embed(texts, at)
        new = [text for text in dict.fromkeys(texts) if (at, text) not in self._known]
        if new:
            keys = [(at, text) for text in new]
            self._known.update(zip(keys, self._model.embed(new, at).chunk(len(new)), strict=True))
        return torch.cat([self._known[at, text] for text in texts])


@contextmanager
def deterministic_text_states(model: ModelView, known: TextStateCache | None = None) -> Iterator[ModelView]:
    """Yields the model with text states of which the `known` are not encoded again; what is encoded becomes known.

    Inside, everything computes on one thread.
    """
    with pinned_threads(1):
        yield cast(ModelView, _TextStatesView(model, {} if known is None else known))


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
