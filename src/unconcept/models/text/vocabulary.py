"""Token ids as text and as the rows the text encoders read them as."""

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
    """Token embeddings (v, d_e) of each text encoder, as the model now computes with them; SDXL's two share their ids.

    `ModelError` where the encoders' ids are not the same: SD3 and FLUX.
    """
    message = f"{model.family} cuts a text differently for CLIP and for T5, so there is no one table of its tokens"
    require(bool(model.spec.clip_encoders), message, ModelError)
    tables = []
    for part in model.spec.clip_encoders:
        embedding = model.modules(part).get_input_embeddings()  # type: ignore[operator]
        tables.append(embedding.weight.detach())
    return tuple(tables)


def special_ids(tokenizer: ClipTokenizer) -> tuple[int, int]:
    """The start token's and the end token's id."""
    start, end = tokenizer([""]).ids[0]
    return start, end


def word_ids(tokenizer: ClipTokenizer, text: str) -> tuple[int, ...]:
    """Ids of a text without start and end token."""
    return tokenizer([text]).ids[0][1:-1]


def text_of_ids(tokenizer: ClipTokenizer, ids: Sequence[int]) -> str:
    """What to type for token ids. Tokenized again it may be other ids: pieces without a word's end grow together.

    Words are dropped from the end until the encoder can hold the text.
    """
    tokens = [tokenizer.tokenizer.id_to_token(int(i)) or "" for i in ids]
    text = " ".join(_BYTE_DECODER.decode(tokens).replace(_WORD_END, " ").split())
    while text and len(tokenizer.tokenizer.encode(text).ids) > tokenizer.length:
        text = text.rpartition(" ")[0]
    return text


def pad_ids(tokenizer: ClipTokenizer, rows: Sequence[Sequence[int]]) -> Tensor:
    """Ids (b, l) with start, end and padding, of rows of ids without them."""
    start, end = special_ids(tokenizer)
    return torch.tensor([[start, *row, end, *[tokenizer.pad] * (tokenizer.length - 2 - len(row))] for row in rows])
