"""Tokenizers of CLIP, T5 and language models, and token positions by name."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tokenizers import Tokenizer

from ...core.errors import ModelError, RequestError, require
from ..family import TextEncoderSpec, TextTemplate
from .templates import PromptFrame
from .tokenizer_files import END_TOKEN, START_TOKEN, read_tokenizer, tokenizer_of

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

TokenPosition = Literal["last_subject", "first_eot", "all"]
TextPosition = TokenPosition | Literal["pooled"]  # positions of tokens, or the pooled text


@dataclass(frozen=True)
class TokenizedTexts:
    """Texts as token ids with start and end token or in their template, without padding."""

    ids: tuple[tuple[int, ...], ...]
    pad: int
    length: int  # the number of tokens that fit into the encoder
    is_masked: bool = False
    frame: PromptFrame | None = None
    reads_padding: bool = True

    def padded(self) -> list[list[int]]:
        """Rows of `length` ids, filled with the pad token, as the stock pipelines do."""
        return [self._filled(row, self.pad) for row in self.ids]

    def mask(self) -> list[list[int]]:
        """1 at a text's own tokens, 0 at padding."""
        return [self._filled([1] * len(row), 0) for row in self.ids]

    def _filled(self, row: Sequence[int], pad: int) -> list[int]:
        padding = [pad] * (self.length - len(row))
        return [*padding, *row] if self.frame is not None and self.frame.pads_left else [*row, *padding]

    def starts(self) -> list[int]:
        """The position of each row's first token: 0 unless padding stands before it."""
        return [row.index(1) for row in self.mask()]

    def index(self, at: TokenPosition) -> list[int]:
        """The index of each text's named token. The last subject token of "" is the start token (as in UCE's script).

        T5 has no start token: there it is the last pad, position -1 in that script, or the end token if the encoder
        ignores padding. In a template the end token is the first one after the text, and the last subject token of ""
        too.
        """
        if self.frame is not None:
            around = len(self.frame.front) + len(self.frame.back)
            starts = self.starts()
            ends = [start + len(row) - len(self.frame.back) for start, row in zip(starts, self.ids, strict=True)]
            subject = at == "last_subject"
            return [end - (subject and len(row) > around) for end, row in zip(ends, self.ids, strict=True)]
        back = 2 if at == "last_subject" else 1
        return [max(0, len(row) - back) if self.is_masked else (len(row) - back) % self.length for row in self.ids]


@dataclass(frozen=True)
class TextTokenizer:
    """A tokenizer of CLIP, T5 or a language model with its padding token and length."""

    tokenizer: Tokenizer
    pad: int
    length: int
    is_masked: bool = False
    """Whether the encoder ignores padding."""
    reads_padding: bool = True
    """Whether the networks that read its states attend to those of padding."""
    is_lowercased: bool = False
    """Whether the pipeline strips texts and puts them in lower case first."""
    frame: PromptFrame | None = None
    """The template in which a language model reads texts."""

    @property
    def end(self) -> int:
        """Id of the end token; in a template, of the first token after a text."""
        return self.around[1][0]

    @property
    def around(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The ids before each text, of which T5 has none, and those after it."""
        if self.frame is not None:
            return self.frame.front, self.frame.back
        (special,) = self.encode([""])
        return special[:-1], special[-1:]

    @property
    def cut(self) -> tuple[int, ...]:
        """The ids at the beginning of a template, which an encoder reads although the denoiser drops their states."""
        return self.frame.cut if self.frame is not None else ()

    @property
    def pads_left(self) -> bool:
        """Whether padding stands before a text."""
        return self.frame is not None and self.frame.pads_left

    def start_of(self, count: int) -> int:
        """The position of the first of so many ids in a padded row."""
        return self.length - count if self.pads_left else 0

    @classmethod
    def load(cls, folder: Path, vocabulary: Path | None = None) -> "TextTokenizer":
        """Load a tokenizer folder: `tokenizer.json`, or CLIP's older `vocab.json` with `merges.txt`, and added tokens.

        `vocabulary` is the folder of these files if it is not the tokenizer's own.

        `ModelError` names a missing or broken file.
        """
        try:
            config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
            pad = config.get("pad_token") or END_TOKEN
            length = int(config.get("model_max_length", _usual_length(config)))
            tokenizer, pad_id = read_tokenizer(folder, config, vocabulary)
            tokenizer.no_padding()
            tokenizer.no_truncation()
            if pad_id is None:
                pad_id = tokenizer.token_to_id(pad["content"] if isinstance(pad, dict) else pad)
        except ModelError as error:
            raise ModelError(f"tokenizer {folder}: {error}") from None
        except Exception as error:  # `tokenizers` raises bare Exceptions on broken files, and a config may be anything.
            raise ModelError(f"tokenizer {folder}: {error}; give a complete diffusers folder") from None
        if pad_id is None:
            raise ModelError(
                f"tokenizer {folder}: its pad token {pad!r} is not in its vocabulary; give a complete folder"
            )
        return cls(tokenizer, pad_id, length)

    @classmethod
    def of(cls, loaded: "PreTrainedTokenizerBase", template: TextTemplate | None = None) -> "TextTokenizer":
        """Make it from a tokenizer that transformers has loaded, or a processor with one, without its padding."""
        plain: PreTrainedTokenizerBase = getattr(loaded, "tokenizer", loaded)
        tokenizer = tokenizer_of(plain)
        tokenizer.no_padding()
        tokenizer.no_truncation()
        frame = None if template is None else PromptFrame.of(loaded, tokenizer, template)
        return cls(tokenizer, plain.pad_token_id, plain.model_max_length, frame=frame)

    def given_to(self, encoder: TextEncoderSpec) -> "TextTokenizer":
        """The tokenizer with the length, mask and lower-casing that the stock pipeline uses for an encoder.

        Padding that is read must have the length of training, so a tokenizer that says that it holds less is right.
        """
        length, reads_padding = encoder.length or self.length, not encoder.is_masked or encoder.passes_padding_on
        length = min(length, self.length) if reads_padding else length
        own = replace(self, length=length, is_lowercased=encoder.is_lowercased)
        return replace(own, is_masked=encoder.is_masked, reads_padding=reads_padding)

    def pad_anew(self, ids: "Tensor") -> "Tensor":
        """Padded ids (b, l) of another tokenizer with the same vocabulary, with this one's padding."""
        return ids.masked_fill(~self.own_tokens(ids), self.pad)

    def own_tokens(self, ids: "Tensor") -> "Tensor":
        """Where padded ids (b, l) are a text's own tokens, up to its end token: (b, l) bool."""
        is_end = ids == self.end
        return is_end.cumsum(1) - is_end.long() == 0

    @property
    def words(self) -> tuple[int, frozenset[str]]:
        """The size of its vocabulary, and the tokens that were added to it, without start, end and padding."""
        usual = {self.pad, self.tokenizer.token_to_id(START_TOKEN), self.tokenizer.token_to_id(END_TOKEN)}
        added = self.tokenizer.get_added_tokens_decoder()
        return self.tokenizer.get_vocab_size(False), frozenset(t.content for i, t in added.items() if i not in usual)

    def encode(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """The ids of each text with start and end token or in its template, however long it is."""
        if self.frame is not None:
            return self.frame.encode(self.tokenizer, texts)
        read = [text.lower().strip() for text in texts] if self.is_lowercased else list(texts)
        return [tuple(coded.ids) for coded in self.tokenizer.encode_batch(read)]

    def __call__(self, texts: Sequence[str]) -> TokenizedTexts:
        """Tokenize texts. One that is too long for the encoder is an error and never cut silently."""
        rows = tuple(self.encode(texts))
        for text, row in zip(texts, rows, strict=True):
            shown = text if len(text) <= 60 else text[:57] + "..."
            message = f"{shown!r} is {len(row)} tokens long, the text encoder holds {self.length}: shorten it"
            require(len(row) <= self.length, message, RequestError)
        return TokenizedTexts(rows, self.pad, self.length, self.is_masked, self.frame, self.reads_padding)

    def can_hold(self, text: str) -> bool:
        """Whether the whole text fits into the encoder."""
        return len(self.encode([text])[0]) <= self.length

    def span(self, form: str, word: str) -> range:
        """The positions of the tokens of a word that replaces the first {} in a sentence; position 0 is the first id.

        In a template, these are the tokens that hold one of its characters.
        """
        before, _, after = form.partition("{}")
        if self.frame is not None:
            (start,) = self([before + word + after]).starts()
            found = self.frame.span(self.tokenizer, before, word, after)
            return range(start + found.start, start + found.stop)
        front, back = (len(row) for row in self.encode([before, after]))
        (whole,) = self([before + word + after]).ids
        return range(front - 1, len(whole) - back + len(self.around[0]))


def _usual_length(config: Mapping[str, Any]) -> int:
    """The length of a tokenizer whose config does not say it."""
    return 512 if str(config.get("tokenizer_class", "")).startswith("T5") else 77


def require_same_words(model: str, tokenizers: Sequence[TextTokenizer]) -> None:
    """Raise `ModelError` if a model's CLIP tokenizers know other words, as after an embedding was loaded into one.

    The denoiser reads the states of their encoders side by side, position by position.
    """
    known = [tokenizer.words for tokenizer in tokenizers]
    differing = sorted(known[0][1] ^ known[-1][1])[:1] if known else []
    message = (
        f"{model}: one of its tokenizers has the token {differing}, another has not, so a text's positions differ: load"
        " the embedding into all of them"
    )
    require(not differing, message, ModelError)
    message = f"{model}: its CLIP tokenizers have vocabularies of different sizes: give the model's own ones"
    require(len({size for size, _ in known}) < 2, message, ModelError)
