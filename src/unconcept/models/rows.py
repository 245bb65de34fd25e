"""Texts as closed-form edits take them: sentences around a concept, and moments of all rows of many texts."""

from collections.abc import Callable, Sequence

from torch import Tensor

from ..core.errors import RequestError, require
from ..linalg.moments import Moments
from .view import ModelView

BATCH = 64  # texts whose rows are held at once


def fits(model: ModelView, text: str) -> bool:
    """Whether every text encoder can hold the text."""
    return all(len(each.tokenizer.encode(text).ids) <= each.length for each in model.tokenizers)


def fitting(model: ModelView, forms: Sequence[str], target: str, anchor: str) -> list[str]:
    """The sentences, {} in the concept's place, that the encoder can hold with the target and with the anchor; at least one."""
    held = [form for form in forms if all(fits(model, form.replace("{}", word)) for word in (target, anchor))]
    message = f"{target!r} -> {anchor!r}: no sentence around them is within the encoder's {model.tokenizer.length} tokens: shorten them"
    require(bool(held), message, RequestError)
    return held


def moments_of(model: ModelView, texts: Sequence[str], kept: Callable[[Tensor], Tensor] = lambda rows: rows) -> Moments:
    """Moments of every position of every padded text; `kept` takes rows (n, d) out of each batch."""
    found = Moments.empty(model.embed([""]).shape[1], model.device)
    for start in range(0, len(texts), BATCH):
        found += Moments.of(kept(model.embed(texts[start : start + BATCH], at="all").flatten(0, 1)))
    return found
