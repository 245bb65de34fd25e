"""Selects rows of text states for edits: those of a concept, of the words around it, and moments of many texts."""

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate

import torch
from torch import Tensor

from ...core.errors import RequestError, require
from ...linalg.moments import SecondMoments
from ..model_view import ModelView
from .tokenizer import TextPosition, TextTokenizer, TokenizedTexts

_QUOTED = re.compile(r'"([^"]+)"')
_STATE_BATCH = 64  # texts whose states are in memory at once
_STATE_BYTES = 2**29  # of their states at most


def fits_context(model: ModelView, text: str) -> bool:
    """Whether the text fits into every text encoder."""
    return all(each.can_hold(text) for each in model.tokenizers)


def sentences_that_fit(model: ModelView, forms: Sequence[str], *words: str) -> list[str]:
    """The sentences that fit into the encoder with each of the words in place of {}: a target and its anchor.

    `RequestError` if none fits.
    """

    def fits(form: str) -> bool:
        return all(fits_context(model, form.replace("{}", word)) for word in words)

    held = [form for form in forms if fits(form)]
    message = (
        f"{' -> '.join(map(repr, words))}: no sentence around it fits into the encoder's {model.tokenizer.length}"
        " tokens: shorten it"
    )
    require(bool(held), message, RequestError)
    return held


def embed_together(model: ModelView, *parts: Sequence[str], at: TextPosition = "last_subject") -> tuple[Tensor, ...]:
    """Embed several lists of texts at once, which is faster than one list after the other."""
    texts = [text for part in parts for text in part]
    rows = model.embed(texts, at=at)
    split: tuple[Tensor, ...] = rows.split([len(part) * (len(rows) // max(1, len(texts))) for part in parts])
    return split


def word_states(model: ModelView, prompt: str, word: str) -> list[int]:
    """Positions of a word's tokens among a prompt's text states; SD3's are CLIP's and then T5's.

    `RequestError` if the prompt does not contain the word.
    """
    before, found, after = prompt.partition(word)
    message = f"{prompt!r} does not contain {word!r}: name a word of the prompt, as it is written there"
    require(bool(found and word.strip()), message, RequestError)
    return filled_states(model, f"{before}{{}}{after}", word)


def filled_states(model: ModelView, form: str, word: str) -> list[int]:
    """Positions of the tokens of a word that replaces the first {} in a sentence, as by `word_states`."""
    positions: list[int] = []
    start, kinds = 0, set[str]()
    for encoder in model.spec.encoders:
        if not encoder.gives_states or encoder.kind in kinds:
            continue  # The states of two CLIPs stand side by side at one position.
        tokenizer = model.checkpoint.tokenizer(encoder)
        if model.checkpoint.has(encoder.part):
            positions += [start + at for at in tokenizer.span(form, word)]
        kinds.add(encoder.kind)
        start += tokenizer.length
    return positions


def quoted_states(model: ModelView, prompts: Sequence[str]) -> Tensor:
    """The text states of the words in double quotes in each prompt, which a picture shall write: (b, l) bool."""
    length = model.condition([""]).states.shape[1]
    focus = torch.zeros(len(prompts), length, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        for word in _QUOTED.findall(prompt):
            focus[row, word_states(model, prompt, word)] = True
    return focus.to(model.device)


def attended_rows(model: ModelView, texts: Sequence[str], *states: Tensor) -> tuple[Tensor, ...]:
    """Select the rows (m, d) that attention reads from states (n, l, d) at every padded position.

    These are all rows, except in families that mask padding. The same rows are selected from each of `states`.
    """
    tokenizer = model.tokenizer
    if tokenizer.reads_padding:
        return tuple(part.flatten(0, 1) for part in states)
    mask = torch.tensor(tokenizer(texts).mask(), device=model.device).bool()
    return tuple(part[mask] for part in states)


def texts_in_memory(model: ModelView) -> int:
    """How many texts' states may be in memory at once."""
    states = model.embed(())
    length = sum(tokenizer.length for tokenizer in _in_turn(model))
    return max(1, _STATE_BYTES // (length * states.shape[1] * states.element_size()))


def text_state_moments(
    model: ModelView, texts: Sequence[str], select: Callable[[Tensor], Tensor] = lambda rows: rows
) -> SecondMoments:
    """Compute the moments of all rows of padded texts, or of their own tokens if attention does not read padding.

    `select` filters the rows (n, d) of each batch.
    """
    size = min(_STATE_BATCH, texts_in_memory(model))
    batches = (texts[start : start + size] for start in range(0, len(texts), size))
    rows = (select(attended_rows(model, batch, model.embed(batch, at="all"))[0]) for batch in batches)
    return SecondMoments.over(rows, model.embed(()).shape[1], model.device)


def shared_context_rows(
    model: ModelView, forms: Sequence[str], target: str, anchor: str
) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows (n, d) of the words around {}, padding included, once with the target and once with the anchor in place.

    Of encoders whose rows follow each other, each gives its own words. As many sentences as fit into memory are read at
    once.
    """
    size = max(1, texts_in_memory(model) // 2)
    for start in range(0, len(forms), size):
        yield _context_rows(model, forms[start : start + size], target, anchor)


def _context_rows(model: ModelView, forms: Sequence[str], target: str, anchor: str) -> tuple[Tensor, Tensor]:
    old = [form.replace("{}", target) for form in forms]
    new = [form.replace("{}", anchor) for form in forms]
    states_old, states_new = model.embed([*old, *new], at="all").split(len(forms))
    rows_old, rows_new, first = list[Tensor](), list[Tensor](), 0
    for tokenizer in _in_turn(model):
        for i, (at_old, at_new) in enumerate(_shared_rows(tokenizer(old), tokenizer(new))):
            rows_old.append(states_old[i, [first + at for at in at_old]])
            rows_new.append(states_new[i, [first + at for at in at_new]])
        first += tokenizer.length
    return torch.cat(rows_old), torch.cat(rows_new)


def _shared_rows(old: TokenizedTexts, new: TokenizedTexts) -> Iterator[tuple[list[int], list[int]]]:
    """Positions of what two lists of texts share, pair by pair, among one encoder's padded rows."""
    starts = zip(old.starts(), new.starts(), strict=True)
    for one, two, (first_old, first_new) in zip(old.ids, new.ids, starts, strict=True):
        before = range(min(first_old, first_new))  # padding of both that stands before them
        at_old, at_new = shared_positions(one, two, old.length - len(before))
        yield [*before, *(first_old + k for k in at_old)], [*before, *(first_new + k for k in at_new)]


def word_mask(model: ModelView, form: str, word: str, ends: bool) -> Tensor:
    """Mask (l,) of the tokens of a word that replaces {} in a sentence; with `ends` also of all end-token ids."""
    found = torch.tensor(model.tokenizer([form.replace("{}", word)]).padded()[0]) == model.tokenizer.end
    found &= ends
    found[list(model.tokenizer.span(form, word))] = True
    return found.to(model.device)


def content_positions(model: ModelView, text: str) -> tuple[range, ...]:
    """Positions of a text's own tokens among its states, without start, end and padding: a range for each encoder.

    Encoders whose states are concatenated along the width count as one. So there is one range in UNets and FLUX, and
    two in SD3, CLIP's and then T5's.
    """
    found, first = [], 0
    for tokenizer in _in_turn(model):
        tokens, (front, back) = tokenizer([text]), tokenizer.around
        begin, count = first + tokens.starts()[0], len(tokens.ids[0])
        found.append(range(begin + len(front), begin + count - len(back)))
        first += tokenizer.length
    return tuple(found)


def positions_after(model: ModelView, text: str, count: int) -> list[int]:
    """The first `count` positions after a text's own tokens, for each encoder as in `content_positions`.

    There are fewer if the encoder's rows end before.
    """
    ends = accumulate(tokenizer.length for tokenizer in _in_turn(model))
    return [
        at
        for own, end in zip(content_positions(model, text), ends, strict=True)
        for at in range(own.stop, min(own.stop + count, end))
    ]


def _in_turn(model: ModelView) -> tuple[TextTokenizer, ...]:
    """Tokenizers of the encoders whose rows follow each other; SD3's T5 may be missing."""
    second = model.tokenizers[2:] if model.streams == 2 else ()
    return (model.tokenizer, *second)


def shared_positions(first: Sequence[int], second: Sequence[int], length: int) -> tuple[list[int], list[int]]:
    """Positions in two rows of token ids, with start and end token, of the tokens that both share.

    They are the common beginning, the common end, and the padding that both have after it, up to `length`.
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
