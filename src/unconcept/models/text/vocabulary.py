"""Converts token ids to text, and to their rows in the text encoders' embedding tables."""

from collections.abc import Sequence

import torch
from tokenizers import decoders
from torch import Tensor

from ...core.errors import ModelError, require
from ..model_view import ModelView
from .tokenizer import ClipTokenizer

_BYTE_DECODER = decoders.ByteLevel()
_WORD_END = "</w>"


def token_tables(model: ModelView) -> tuple[Tensor, ...]:
    """The current token embeddings (v, d_e) of each text encoder; SDXL's two share their ids.

    `ModelError` if the encoders' ids differ: SD3 and FLUX.
    """
    message = (
        f"{model.family} tokenizes a text differently for CLIP and for T5, so it has no single table of tokens: choose"
        " a family with CLIP encoders only"
    )
    require(bool(model.spec.clip_encoders), message, ModelError)
    tables = []
    for part in model.spec.clip_encoders:
        embedding = model.modules(part).get_input_embeddings()  # type: ignore[operator]
        tables.append(embedding.weight.detach())
    return tuple(tables)


def special_ids(tokenizer: ClipTokenizer) -> tuple[int, int]:
    """The ids of the start token and the end token."""
    start, end = tokenizer([""]).ids[0]
    return start, end


def word_ids(tokenizer: ClipTokenizer, text: str) -> tuple[int, ...]:
    """Ids of a text without start and end token."""
    return tokenizer([text]).ids[0][1:-1]


def text_of_ids(tokenizer: ClipTokenizer, ids: Sequence[int]) -> str:
    """The text of token ids. Its own ids may differ, because pieces without a word's end join the next word.

    Words are dropped from the end until the text fits into the encoder.
    """
    tokens = [tokenizer.tokenizer.id_to_token(int(i)) or "" for i in ids]
    text = " ".join(_BYTE_DECODER.decode(tokens).replace(_WORD_END, " ").split())
    while text and not tokenizer.can_hold(text):
        text = text.rpartition(" ")[0]
    return text


def pad_ids(tokenizer: ClipTokenizer, rows: Sequence[Sequence[int]]) -> Tensor:
    """Add start, end and padding to rows of ids: (b, l)."""
    start, end = special_ids(tokenizer)
    return torch.tensor([[start, *row, end, *[tokenizer.pad] * (tokenizer.length - 2 - len(row))] for row in rows])
