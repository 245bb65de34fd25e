"""Converts token ids to text, and to their rows in the text encoders' embedding tables."""

from collections.abc import Sequence

import torch
from tokenizers import decoders
from torch import Tensor, nn

from ...core.errors import ModelError, require
from ..family import EncoderKind, TextEncoderSpec
from ..model_view import ModelView
from .tokenizer import TextTokenizer

_BYTE_DECODER = decoders.ByteLevel()
_WORD_END = "</w>"
_NEVER_TYPED = ("<pad>", "<unk>")  # tokens of T5 that stand for no text


def encoder_kinds(model: ModelView) -> tuple[EncoderKind, ...]:
    """The kinds of text encoders that the model has; those of one kind share a vocabulary. CLIP comes first."""
    own = [
        encoder.kind for encoder in model.spec.encoders if not encoder.is_optional or model.checkpoint.has(encoder.part)
    ]
    return tuple(dict.fromkeys(own))


def vocabulary_of(model: ModelView, kind: EncoderKind) -> tuple[TextTokenizer, tuple[Tensor, ...]]:
    """The tokenizer of the first encoder of a kind, and the current token embeddings (v, d_e) of each of them.

    `ModelError` if the model has none of that kind.
    """
    own = [encoder for encoder in model.spec.encoders if encoder.kind == kind]
    known = encoder_kinds(model)
    require(
        kind in known, f"{model.family} has no text encoder of kind {kind!r}: choose {', '.join(known)}", ModelError
    )
    tables = tuple(input_embedding(model, encoder).get_parameter("weight").detach() for encoder in own)
    return model.checkpoint.tokenizer(own[0]), tables


def input_embedding(model: ModelView, encoder: TextEncoderSpec) -> nn.Module:
    """The live module that looks up the token embeddings of a text encoder."""
    module = model.modules(encoder.part)
    # T5's own table is another module, which shares its weight with the encoder's but is never called.
    stack = module.get_submodule("encoder") if encoder.kind == "t5" else module
    embedding: nn.Module = stack.get_input_embeddings()  # type: ignore[operator]
    return embedding


def special_ids(tokenizer: TextTokenizer) -> tuple[int, ...]:
    """The ids around a text: start token, which T5 lacks, and end token, or those of a template."""
    front, back = tokenizer.around
    return (*front, *back)


def untypable_ids(tokenizer: TextTokenizer) -> tuple[int, ...]:
    """Ids that stand for no text: start and end token, T5's for padding and for what it does not know.

    Of a language model these are the tokens beside its vocabulary, such as those that begin and end a turn.
    """
    if tokenizer.frame is not None:
        return tuple(tokenizer.tokenizer.get_added_tokens_decoder())
    others = (tokenizer.tokenizer.token_to_id(token) for token in _NEVER_TYPED)
    return (*special_ids(tokenizer), *(i for i in others if i is not None))


def word_ids(tokenizer: TextTokenizer, text: str) -> tuple[int, ...]:
    """Ids of a text without start and end token or template."""
    front, back = tokenizer.around
    return tokenizer([text]).ids[0][len(front) : -len(back)]


def text_of_ids(tokenizer: TextTokenizer, ids: Sequence[int], readers: Sequence[TextTokenizer] = ()) -> str:
    """The text of token ids. Its own ids may differ, because pieces without a word's end join the next word.

    Words are dropped from the end until the text fits into the encoder, and into those of the other `readers`.
    """
    text = _decoded(tokenizer, ids)
    while text and not all(reader.can_hold(text) for reader in (tokenizer, *readers)):
        text = text.rpartition(" ")[0]
    return text


def _decoded(tokenizer: TextTokenizer, ids: Sequence[int]) -> str:
    if tokenizer.frame is not None or not tokenizer.around[0]:  # Of a language model, or T5's.
        return " ".join(str(tokenizer.tokenizer.decode(list(map(int, ids)))).split())
    tokens = [tokenizer.tokenizer.id_to_token(int(i)) or "" for i in ids]
    return " ".join(_BYTE_DECODER.decode(tokens).replace(_WORD_END, " ").split())


def pad_ids(tokenizer: TextTokenizer, rows: Sequence[Sequence[int]]) -> Tensor:
    """Add start and end token or template, and padding, to rows of ids: (b, l)."""
    front, back = tokenizer.around
    whole = [[*front, *row, *back] for row in rows]
    found = torch.full((len(whole), tokenizer.length), tokenizer.pad)
    for padded, row in zip(found, whole, strict=True):
        padded[tokenizer.start_of(len(row)) :][: len(row)] = torch.tensor(row)
    return found
