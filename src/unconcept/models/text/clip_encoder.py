"""CLIP's text tower, computed directly from its tensors, without transformers or a built module.

The encoder is causal, so a token's state depends only on the tokens before it. For a named position, the text is
therefore cut right after it, and equal beginnings are encoded once.

Tokens of all texts are concatenated and pass the weights in blocks of one size; only attention treats texts separately.
Matrix products of one shape give a token the same bits for any other content of its block (on one thread), so a text's
state does not depend on the other texts. With batches of varying size it would.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...core.errors import ModelError, require
from .state_cache import cached_text_states
from .tokenizer import TextTokenizer, TokenPosition

# Tokens in a matrix product: fewer use the processor worse, more are wasted on a single short text.
_TOKEN_BLOCK = 64
_MOST_TOKENS = 4096  # tokens encoded at once, which bounds memory


@dataclass(frozen=True)
class ClipTextEncoder:
    """A text encoder with its tokenizer. `config` is the encoder's config.json as a dict."""

    tokenizer: TextTokenizer
    weights: Mapping[str, Tensor]
    config: Mapping[str, Any]
    penultimate: bool = False  # SDXL reads the state before the last layer, without the final norm
    state_cache: MutableMapping[TokenPosition, dict[str, Tensor]] | None = None
    """States encoded so far; None if the weights may change."""

    def states(self, ids: Tensor) -> Tensor:
        """Hidden states (b, l, d) of token ids (b, l)."""
        return self._states([ids])[0]

    def _states(self, groups: Sequence[Tensor]) -> list[Tensor]:
        found = self._layers(groups, int(self.config["num_hidden_layers"]) - self.penultimate)
        return found if self.penultimate else self._normed(found)

    def embed(self, texts: Sequence[str], at: TokenPosition) -> Tensor:
        """Encode texts: states at a named position (n, d), or at every padded position (n, l, d)."""
        return cached_text_states(self.state_cache, texts, at, lambda new: self._read(new, at, self._states))

    def pooled(self, texts: Sequence[str]) -> Tensor:
        """Pooled embeddings (n, p): the last state at the first end token, projected if there is a projection."""
        last = self._read(
            texts, "first_eot", lambda groups: self._normed(self._layers(groups, int(self.config["num_hidden_layers"])))
        )
        projection = self.weights.get("text_projection.weight")
        return last if projection is None else F.linear(last, projection)

    def _layers(self, groups: Sequence[Tensor], count: int) -> list[Tensor]:
        """States (b, l, d) after `count` layers of each group of ids (b, l)."""
        weights, heads, eps = self.weights, int(self.config["num_attention_heads"]), self._eps
        spare = -sum(ids.numel() for ids in groups) % _TOKEN_BLOCK
        groups = [*groups, groups[0].new_zeros(spare, 1)] if spare else groups
        sizes = [ids.numel() for ids in groups]
        flat = torch.cat([ids.flatten() for ids in groups])
        places = torch.cat([torch.arange(ids.shape[1], device=ids.device).expand_as(ids).flatten() for ids in groups])
        x = weights["embeddings.token_embedding.weight"][flat] + weights["embeddings.position_embedding.weight"][places]
        activate = _activation(str(self.config.get("hidden_act", "quick_gelu")))
        for layer in range(count):
            part = _Layer(weights, f"encoder.layers.{layer}.")
            y = part.norm("layer_norm1", x, eps)
            q, k, v = (part.linear(f"self_attn.{n}_proj", y).split(sizes) for n in "qkv")
            y = torch.cat([_attention(ids.shape, heads, *own) for ids, *own in zip(groups, q, k, v, strict=True)])
            x = x + part.linear("self_attn.out_proj", y)
            y = activate(part.linear("mlp.fc1", part.norm("layer_norm2", x, eps)))
            x = x + part.linear("mlp.fc2", y)
        found = [rows.view(*ids.shape, -1) for ids, rows in zip(groups, x.split(sizes), strict=True)]
        return found[:-1] if spare else found

    @property
    def _eps(self) -> float:
        return float(self.config.get("layer_norm_eps", 1e-5))

    def _normed(self, groups: Sequence[Tensor]) -> list[Tensor]:
        return [_Layer(self.weights, "").norm("final_layer_norm", x, self._eps) for x in groups]

    def _read(self, texts: Sequence[str], at: TokenPosition, run: Callable[[Sequence[Tensor]], list[Tensor]]) -> Tensor:
        """Run the encoder once on each distinct row of ids; for example, " " has the same ids as ""."""
        tokens = self.tokenizer(texts)
        if at == "all":
            rows = [tuple(row) for row in tokens.padded()]
        else:
            rows = [row[: end + 1] for row, end in zip(tokens.ids, tokens.index(at), strict=True)]
        found: dict[tuple[int, ...], Tensor] = {}
        device = self.weights["embeddings.token_embedding.weight"].device
        for groups in _held(dict.fromkeys(rows)):
            for members, states in zip(
                groups, run([torch.tensor(each, device=device) for each in groups]), strict=True
            ):
                found.update(zip(members, states if at == "all" else states[:, -1], strict=True))
        return torch.stack([found[row] for row in rows])


@dataclass(frozen=True)
class _Layer:
    weights: Mapping[str, Tensor]
    prefix: str

    def linear(self, name: str, x: Tensor) -> Tensor:
        """(t, i) -> (t, o), block by block."""
        weight, bias = self.weights[f"{self.prefix}{name}.weight"], self.weights[f"{self.prefix}{name}.bias"]
        return torch.cat([F.linear(part, weight, bias) for part in x.split(_TOKEN_BLOCK)])

    def norm(self, name: str, x: Tensor, eps: float) -> Tensor:
        return F.layer_norm(
            x, x.shape[-1:], self.weights[f"{self.prefix}{name}.weight"], self.weights[f"{self.prefix}{name}.bias"], eps
        )


def _held(rows: Iterable[tuple[int, ...]]) -> Iterator[list[list[tuple[int, ...]]]]:
    """Yield batches of rows of ids that fit into memory, each as groups of rows of one length."""
    held: list[tuple[int, ...]] = []
    for row in sorted(rows, key=len):
        if held and (len(held) + 1) * len(row) > _MOST_TOKENS:
            yield [list(members) for _, members in groupby(held, key=len)]
            held = []
        held.append(row)
    if held:
        yield [list(members) for _, members in groupby(held, key=len)]


def _attention(shape: Sequence[int], heads: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention on the tokens (b l, d) of texts of one length, `shape` (b, l)."""
    b, l = shape
    q, k, v = (x.view(b, l, heads, -1).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b * l, -1)


def _activation(name: str) -> Callable[[Tensor], Tensor]:
    known: dict[str, Callable[[Tensor], Tensor]] = {
        "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
        "gelu": F.gelu,
    }
    require(name in known, f"text encoder activation {name!r} is unknown: allowed are {', '.join(known)}", ModelError)
    return known[name]


def strip_text_model_prefix(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename tensors as in transformers 5, without the prefix `text_model.` of older files."""
    return {name.removeprefix("text_model."): tensor for name, tensor in weights.items()}
