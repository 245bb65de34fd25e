"""CLIP's text tower driven from its tensors, so that reading text needs neither transformers nor a built module.

A causal encoder's state at a token depends on what stands before it alone: for one named position the text is cut
right after it, texts of equal length go in blocks, and what is read alike is encoded once.

All blocks of a length have one size: matrix products of one shape give a row the same bits whatever stands in the
others (on one thread), so that a text's state does not depend on what else is asked. In batches as they come it does.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..core.errors import ModelError, require
from .remembered import remembered
from .tokens import ClipTokenizer, Position

BLOCK_TOKENS = 64  # of a block; a short text by itself costs five times as much as one of many, for all weights are read for it


@dataclass(frozen=True)
class ClipText:
    """One tokenizer with one text encoder. `config` is the encoder's own config.json as a dict."""

    tokenizer: ClipTokenizer
    weights: Mapping[str, Tensor]
    config: Mapping[str, Any]
    penultimate: bool = False  # SDXL reads the state before the last layer, without the final norm
    known: MutableMapping[Position, dict[str, Tensor]] | None = None  # states found so far, where the weights cannot change

    def states(self, ids: Tensor) -> Tensor:
        """Hidden states (b, l, d) of token ids (b, l)."""
        x = self._layers(ids, int(self.config["num_hidden_layers"]) - self.penultimate)
        return x if self.penultimate else self._normed(x)

    def embed(self, texts: Sequence[str], at: Position) -> Tensor:
        """States at a named position (n, d), or at every padded position (n, l, d)."""
        return remembered(self.known, texts, at, lambda new: self._read(new, at, self.states))

    def pooled(self, texts: Sequence[str]) -> Tensor:
        """What the encoder says of a whole text (n, p): its last state at the first end token, projected where it has a projection."""
        last = self._read(texts, "first_eot", lambda ids: self._normed(self._layers(ids, int(self.config["num_hidden_layers"]))))
        projection = self.weights.get("text_projection.weight")
        return last if projection is None else F.linear(last, projection)

    def _layers(self, ids: Tensor, count: int) -> Tensor:
        weights, heads, eps = self.weights, int(self.config["num_attention_heads"]), self._eps
        b, l = ids.shape
        x = weights["embeddings.token_embedding.weight"][ids] + weights["embeddings.position_embedding.weight"][:l]
        d = x.shape[-1]
        activate = _activation(str(self.config.get("hidden_act", "quick_gelu")))
        for layer in range(count):
            part = _Layer(weights, f"encoder.layers.{layer}.")
            y = part.norm("layer_norm1", x, eps)
            q, k, v = (part.linear(f"self_attn.{n}_proj", y).view(b, l, heads, d // heads).transpose(1, 2) for n in "qkv")
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, l, d)
            x = x + part.linear("self_attn.out_proj", y)
            y = activate(part.linear("mlp.fc1", part.norm("layer_norm2", x, eps)))
            x = x + part.linear("mlp.fc2", y)
        return x

    @property
    def _eps(self) -> float:
        return float(self.config.get("layer_norm_eps", 1e-5))

    def _normed(self, x: Tensor) -> Tensor:
        return _Layer(self.weights, "").norm("final_layer_norm", x, self._eps)

    def _read(self, texts: Sequence[str], at: Position, run: Callable[[Tensor], Tensor]) -> Tensor:
        """`run` on each distinct row of ids: " " is read as "" is."""
        tokens = self.tokenizer(texts)
        if at == "all":
            rows = [tuple(row) for row in tokens.padded()]
        else:
            rows = [row[: end + 1] for row, end in zip(tokens.ids, tokens.index(at), strict=True)]
        by_length: dict[int, list[tuple[int, ...]]] = defaultdict(list)
        for row in dict.fromkeys(rows):
            by_length[len(row)].append(row)
        found: dict[tuple[int, ...], Tensor] = {}
        device = self.weights["embeddings.token_embedding.weight"].device
        for length, members in by_length.items():
            size = max(1, BLOCK_TOKENS // length)
            for part in (members[i : i + size] for i in range(0, len(members), size)):
                states = run(torch.tensor([*part, *part[-1:] * (size - len(part))], device=device))[: len(part)]
                found.update(zip(part, states if at == "all" else states[:, -1], strict=True))
        return torch.stack([found[row] for row in rows])


@dataclass(frozen=True)
class _Layer:
    weights: Mapping[str, Tensor]
    prefix: str

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.weights[f"{self.prefix}{name}.weight"], self.weights[f"{self.prefix}{name}.bias"])

    def norm(self, name: str, x: Tensor, eps: float) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.weights[f"{self.prefix}{name}.weight"], self.weights[f"{self.prefix}{name}.bias"], eps)


def _activation(name: str) -> Callable[[Tensor], Tensor]:
    known: dict[str, Callable[[Tensor], Tensor]] = {"quick_gelu": lambda x: x * torch.sigmoid(1.702 * x), "gelu": F.gelu}
    require(name in known, f"text encoder activation {name!r} is not known: allowed are {', '.join(known)}", ModelError)
    return known[name]


def without_prefix(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names as transformers 5 writes them: older files put `text_model.` before each."""
    return {name.removeprefix("text_model."): tensor for name, tensor in weights.items()}
