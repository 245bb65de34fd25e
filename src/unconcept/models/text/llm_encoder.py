"""Causal language models (Qwen3, Qwen2.5-VL, Mistral) as text encoders, layer by layer with transformers' classes.

Only a skeleton without weights is built. Layers are the outer loop, so that each tensor is read once, or an MLP's once
for some thousand tokens, and no layer is in memory as a whole (`llm_layer.py`). Layers after the last hidden state that
is read are never read. Vision towers are not used.

A token's state depends on the tokens before it alone, so texts are cut after a named position. They pass the weights in
blocks of one size, in which each length has its own number of texts; so a text's state does not depend on the others.
"""

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..checkpoint.safetensors_io import table_rows
from .llm_layer import LlmLayer
from .llm_skeleton import TOKEN_TABLE, language_prefix, language_skeleton
from .state_cache import cached_text_states
from .tokenizer import TextTokenizer, TokenPosition

_TOKEN_BLOCK = 64  # tokens in a matrix product
_LENGTH_STEP = 16  # texts are filled up to a multiple of it
_MOST_TOKENS = 1 << 15  # tokens encoded at once, which bounds memory

_Row = tuple[int, ...]


@dataclass(frozen=True)
class LlmEncoder:
    """A language model with its tokenizer. `config` is its config.json as a dict."""

    tokenizer: TextTokenizer
    weights: Mapping[str, Tensor]
    config: Mapping[str, Any]
    layers: tuple[int, ...]
    """Numbers of the hidden states that are joined to one; 0 are the embeddings, -1 is the last one, after the norm."""
    state_cache: MutableMapping[TokenPosition, dict[str, Tensor]] | None = None
    """States encoded so far; None if the weights may change."""

    def embed(self, texts: Sequence[str], at: TokenPosition) -> Tensor:
        """Encode texts: states at a named position (n, d), or at every padded position (n, l, d).

        Padding that nothing reads has states of zeros.
        """
        return cached_text_states(self.state_cache, texts, at, lambda new: self._read(new, at))

    def _read(self, texts: Sequence[str], at: TokenPosition) -> Tensor:
        tokens, cut = self.tokenizer(texts), self.tokenizer.cut
        rows = [(*cut, *row) for row in tokens.ids]
        if at != "all":
            places = zip(rows, tokens.index(at), tokens.starts(), strict=True)
            rows = [row[: len(cut) + end - start + 1] for row, end, start in places]
            found = self._states(dict.fromkeys(rows), padded=False)
            return torch.stack([found[row][-1] for row in rows])
        length, is_left = tokens.length, tokens.reads_padding and self.tokenizer.pads_left
        if is_left:
            # Padding before a text attends to nothing: its state is the same wherever it stands.
            found = self._states(dict.fromkeys([*rows, ()]), padded=False, end=length)
            padding = found[()].expand(length, -1)
            return torch.stack([torch.cat([padding[len(row) :], found[row]]) for row in rows])
        found = self._states(dict.fromkeys(rows), padded=tokens.reads_padding)
        kept = [found[row][len(cut) : len(cut) + length] for row in rows]
        return torch.stack([F.pad(states, (0, 0, 0, length - len(states))) for states in kept])

    def _states(self, rows: Mapping[_Row, object], padded: bool, end: int = 0) -> dict[_Row, Tensor]:
        """States (l, d) of each row of ids, or with `padded` of the whole length of the encoder.

        `end` is the position after the rows' last tokens; 0: they begin at position 0. Of no ids it is the state of
        padding that attends to nothing.
        """
        found: dict[_Row, Tensor] = {}
        length = len(self.tokenizer.cut) + self.tokenizer.length if padded else 0
        for batch in _batches(rows, length):
            blocks = [_Block.of(members, length, self.tokenizer, end) for members in batch]
            for block, states in zip(blocks, self._layers(blocks), strict=True):
                for row, each in zip(block.rows, states, strict=False):
                    found[row] = each if padded else each[: max(1, len(row))]
        return found

    def _layers(self, blocks: Sequence["_Block"]) -> list[Tensor]:
        """States (b, l, d) of each block."""
        skeleton, rotary = language_skeleton(self.config)
        layers, norm = list(skeleton.get_submodule("layers").children()), skeleton.get_submodule("norm")
        count = len(layers)
        wanted = [k % (count + 1) for k in self.layers]
        prefix = language_prefix(self.weights)
        words = torch.cat([block.ids.flatten() for block in blocks])
        found = table_rows(self.weights, f"{prefix}{TOKEN_TABLE}", words).split([b.ids.numel() for b in blocks])
        hidden = [states.view(*block.ids.shape, -1) for states, block in zip(found, blocks, strict=True)]
        masks = [block.mask(each.device) for block, each in zip(blocks, hidden, strict=True)]
        turns = [_positions(rotary, each, block.first) for block, each in zip(blocks, hidden, strict=True)]
        kept = {0: list(hidden)}
        for number, layer in enumerate(layers[: max(wanted)], 1):
            LlmLayer(layer, self.weights, f"{prefix}layers.{number - 1}.").forward(hidden, masks, turns)
            if number in wanted:
                kept[number] = list(hidden)
        if count in wanted:
            tensors = {"weight": self.weights[f"{prefix}norm.weight"]}
            kept[count] = [torch.func.functional_call(norm, tensors, (each,)) for each in hidden]
        joined = zip(*map(kept.__getitem__, wanted), strict=True)
        return [torch.cat(states, -1) for states in joined]


@dataclass(frozen=True)
class _Block:
    """Rows of one length that pass the weights together."""

    rows: tuple[_Row, ...]
    ids: Tensor
    """(b, l), filled up with padding, and with copies of the last row."""
    first: Tensor
    """(b,) or (1,): the positions of the first ids."""
    is_masked: bool
    """Whether padding is not attended to: where its states are read, or nothing else is there."""

    @classmethod
    def of(cls, rows: Sequence[_Row], length: int, tokenizer: TextTokenizer, end: int) -> "_Block":
        wide = _width(rows[0], length)
        filled = [*rows, *[rows[-1]] * (_rows_per_block(wide) - len(rows))]
        ids = torch.tensor([[*row, *[tokenizer.pad] * (wide - len(row))] for row in filled])
        first = torch.tensor([end - len(row) for row in filled] if end else [0])
        return cls(tuple(rows), ids, first, length > 0 or not rows[0])

    def mask(self, device: torch.device) -> Tensor | None:
        """(b, 1, l, l): what each position reads, itself and what is before it but padding; None if that is all."""
        if not self.is_masked:
            return None
        length = self.ids.shape[1]
        counts = torch.tensor([len(row) for row in self.rows], device=device)
        own = torch.arange(length, device=device) < counts[:, None]
        return own[:, None, None] & torch.ones(length, length, dtype=torch.bool, device=device).tril()


def _width(row: _Row, length: int) -> int:
    """The length to which a row is filled up: that of the encoder, or else the next step."""
    return length or len(row) + -len(row) % _LENGTH_STEP or 1


def _rows_per_block(length: int) -> int:
    return max(1, _TOKEN_BLOCK // length)


def _batches(rows: Mapping[_Row, object], length: int) -> Iterator[list[list[_Row]]]:
    """Yield as many groups of rows as fit into memory; a group is a block, of rows that are padded to one length."""
    by_length: dict[int, list[_Row]] = {}
    for row in rows:
        by_length.setdefault(_width(row, length), []).append(row)
    held: list[list[_Row]] = []
    tokens = 0
    for wide, members in by_length.items():
        size = _rows_per_block(wide)
        for start in range(0, len(members), size):
            if held and tokens + size * wide > _MOST_TOKENS:
                yield held
                held, tokens = [], 0
            held.append(members[start : start + size])
            tokens += size * wide
    if held:
        yield held


def _positions(rotary: nn.Module, hidden: Tensor, first: Tensor) -> Any:
    """Rotary embeddings of consecutive positions; Qwen2.5-VL has them on three axes, which are one for text."""
    places = (torch.arange(hidden.shape[1]) + first[:, None]).to(hidden.device)
    told: Any = rotary.config
    if "mrope_section" in (getattr(told, "rope_parameters", None) or {}):
        places = places.expand(3, -1, -1)
    return rotary.to(hidden.device)(hidden, places)
