"""Rows of texts as edits take them: of the words around a concept, of its own, and
moments of all rows of many texts.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate

import torch
from torch import Tensor

from ...core.errors import RequestError, require
from ...linalg.moments import SecondMoments
from ..model_view import ModelView
from .tokenizer import ClipTokenizer, TextPosition

_STATE_BATCH = 64  # texts whose rows are held at once


def fits_context(model: ModelView, text: str) -> bool:
    """Whether every text encoder can hold the text."""
    return all(len(each.tokenizer.encode(text).ids) <= each.length for each in model.tokenizers)


def sentences_that_fit(model: ModelView, forms: Sequence[str], *words: str) -> list[str]:
    """The sentences, {} in the concept's place, that the encoder can hold with each of the words, a target and its
    anchor; at least one.
    """

    def fits(form: str) -> bool:
        return all(fits_context(model, form.replace("{}", word)) for word in words)

    held = [form for form in forms if fits(form)]
    message = (
        f"{' -> '.join(map(repr, words))}: no sentence around it is within the encoder's {model.tokenizer.length}"
        " tokens: shorten it"
    )
    require(bool(held), message, RequestError)
    return held


def embed_together(model: ModelView, *parts: Sequence[str], at: TextPosition = "last_subject") -> tuple[Tensor, ...]:
    """What `embed` gives of each list of texts, all of them read at once, which costs less
    than one list after another.
    """
    texts = [text for part in parts for text in part]
    rows = model.embed(texts, at=at)
    split: tuple[Tensor, ...] = rows.split([len(part) * (len(rows) // max(1, len(texts))) for part in parts])
    return split


def attended_rows(model: ModelView, texts: Sequence[str], *states: Tensor) -> tuple[Tensor, ...]:
    """Of states (n, l, d) at every padded position, the rows (m, d) at which attentions read the texts.

    All of them, but for families that mask padding. The same rows are taken of each.
    """
    tokenizer = model.tokenizer
    if tokenizer.reads_padding:
        return tuple(part.flatten(0, 1) for part in states)
    mask = torch.tensor(tokenizer(texts).mask(), device=model.device).bool()
    return tuple(part[mask] for part in states)


def text_state_moments(
    model: ModelView, texts: Sequence[str], select: Callable[[Tensor], Tensor] = lambda rows: rows
) -> SecondMoments:
    """Moments of every position of every padded text, or of its own tokens where no attention reads padding.

    `select` takes rows (n, d) out of each batch.
    """
    batches = (texts[start : start + _STATE_BATCH] for start in range(0, len(texts), _STATE_BATCH))
    rows = (select(attended_rows(model, batch, model.embed(batch, at="all"))[0]) for batch in batches)
    return SecondMoments.over(rows, model.embed(()).shape[1], model.device)


def shared_context_rows(model: ModelView, forms: Sequence[str], target: str, anchor: str) -> tuple[Tensor, Tensor]:
    """Rows (n, d) of the words around {}, pads included, as sentences read them with the target and with the anchor in
    its place.
    """
    old = [form.replace("{}", target) for form in forms]
    new = [form.replace("{}", anchor) for form in forms]
    states = model.embed([*old, *new], at="all")
    rows_old, rows_new = [], []
    for i, (one, two) in enumerate(zip(model.tokenizer(old).ids, model.tokenizer(new).ids, strict=True)):
        at_old, at_new = shared_positions(one, two, states.shape[1])
        rows_old.append(states[i, at_old])
        rows_new.append(states[len(forms) + i, at_new])
    return torch.cat(rows_old), torch.cat(rows_new)


def word_mask(model: ModelView, form: str, word: str, ends: bool) -> Tensor:
    """(l,) bool: the positions of a word's tokens in a sentence, {} in its place, and with `ends` those of the end
    token's id.
    """
    found = torch.tensor(model.tokenizer([form.replace("{}", word)]).padded()[0]) == model.tokenizer.end
    found &= ends
    found[list(model.tokenizer.span(form, word))] = True
    return found.to(model.device)


def content_positions(model: ModelView, text: str) -> tuple[range, ...]:
    """Where among a text's states its own tokens stand, without start, end and padding: a range for each encoder whose
    rows follow one another.

    One in a UNet (SDXL's two encoders stand side by side) and in FLUX, CLIP's and then T5's in SD3.
    """
    found, first = [], 0
    for tokenizer in _in_turn(model):
        count, special = len(tokenizer([text]).ids[0]), len(tokenizer([""]).ids[0])
        begin = first + special - 1  # T5 has an end token alone.
        found.append(range(begin, begin + count - special))
        first += tokenizer.length
    return tuple(found)


def positions_after(model: ModelView, text: str, count: int) -> list[int]:
    """The first `count` positions behind a text's own tokens, of each encoder as in `content_positions`; fewer where
    its rows end before.
    """
    ends = accumulate(tokenizer.length for tokenizer in _in_turn(model))
    return [
        at
        for own, end in zip(content_positions(model, text), ends, strict=True)
        for at in range(own.stop, min(own.stop + count, end))
    ]


def _in_turn(model: ModelView) -> tuple[ClipTokenizer, ...]:
    """Of the encoders whose rows stand one below the other; SD3's T5 may be missing."""
    second = model.tokenizers[2:] if model.streams == 2 else ()
    return (model.tokenizer, *second)


def shared_positions(first: Sequence[int], second: Sequence[int], length: int) -> tuple[list[int], list[int]]:
    """Positions, in each of two rows of token ids (start and end token included), of what stands in both.

    The common beginning, the common end, and as many pads after it as both have once padded to `length`.
    """
    shorter, longer = sorted((len(first), len(second)))
    front = 0
    while front < shorter and first[front] == second[front]:
        front += 1
    back = 0
    while back < shorter - front and first[-1 - back] == second[-1 - back]:
        back += 1
    pads = length - longer
    one, two = ([*range(front), *range(len(ids) - back, len(ids) + pads)] for ids in (first, second))
    return one, two
