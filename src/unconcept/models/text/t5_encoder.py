"""T5's encoder, computed directly from its tensors (Raffel et al. 2020; v1.1).

The stock pipelines of SD3 and FLUX encode padded texts without a mask, so padding changes every state, and the whole
length must be computed. With a mask, a text's own tokens suffice. Layers are the outer loop, so that each tensor is
read once and only one layer is in memory.
"""

import math
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...core.errors import ModelError, require
from ..checkpoint.safetensors_io import table_rows
from .state_cache import cached_text_states
from .tokenizer import TextTokenizer, TokenPosition

_TEXTS_PER_BATCH = 64  # texts whose states are in memory at once: half a GiB for T5-XXL
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gated-gelu": lambda x: F.gelu(x, approximate="tanh"),
}


@dataclass(frozen=True)
class T5Encoder:
    """An encoder with its tokenizer. `config` is the encoder's config.json as a dict."""

    tokenizer: TextTokenizer  # its length is the one to which the pipeline pads
    weights: Mapping[str, Tensor]
    config: Mapping[str, Any]
    state_cache: MutableMapping[TokenPosition, dict[str, Tensor]] | None = None
    """States encoded so far; None if the weights may change."""

    def states(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Hidden states (b, l, d) of padded token ids (b, l); `mask` (b, l) is 0 at tokens that attention ignores."""
        bias = self._position_bias(ids.shape[1])
        if mask is None:
            return torch.cat(self._layers(ids.split(1), [bias] * len(ids)))
        hidden = (mask[:, None, None] == 0).split(1)
        return torch.cat(self._layers(ids.split(1), [bias.masked_fill(row, -torch.inf) for row in hidden]))

    def _layers(self, texts: Sequence[Tensor], biases: Sequence[Tensor]) -> list[Tensor]:
        """States (1, l, d) of each text's ids (1, l).

        Texts are encoded one by one, so that a text's state does not depend on the others; each is large enough.
        """
        eps = float(self.config.get("layer_norm_epsilon", 1e-6))
        table = "shared.weight" if "shared.weight" in self.weights else "encoder.embed_tokens.weight"
        words = table_rows(self.weights, table, torch.cat(list(texts), 1))
        # The sum over layers overflows float16 in T5-XXL, so it is at least float32.
        wide = words.to(torch.promote_types(words.dtype, torch.float32))
        parts = list(wide.split([ids.shape[1] for ids in texts], 1))
        for number in range(int(self.config["num_layers"])):
            prefix = f"encoder.block.{number}.layer."
            layer = {name.removeprefix(prefix): self.weights[name] for name in self.weights if name.startswith(prefix)}
            for i, bias in enumerate(biases):
                parts[i] = self._layer(parts[i], layer, bias, eps)
            del layer  # Before the next one is read.
        final = self.weights["encoder.final_layer_norm.weight"]
        return [rms_norm(part, final, eps) for part in parts]

    def embed(self, texts: Sequence[str], at: TokenPosition) -> Tensor:
        """Encode texts: states at a named position (n, d), or at every padded position (n, l, d).

        Each distinct text is encoded once.
        """
        return cached_text_states(self.state_cache, texts, at, lambda new: self._read(new, at))

    def _read(self, texts: Sequence[str], at: TokenPosition) -> Tensor:
        distinct = list(dict.fromkeys(texts))
        found = []
        for start in range(0, len(distinct), _TEXTS_PER_BATCH):
            found.append(self._read_batch(distinct[start : start + _TEXTS_PER_BATCH], at))
        place = {text: i for i, text in enumerate(distinct)}
        return torch.cat(found)[[place[text] for text in texts]]

    def _read_batch(self, texts: Sequence[str], at: TokenPosition) -> Tensor:
        """Encode a batch; if the encoder ignores padding, a named position needs only the text's own tokens."""
        tokens, device = self.tokenizer(texts), self.weights["encoder.final_layer_norm.weight"].device
        if at != "all" and tokens.is_masked:
            own = [torch.tensor([row], device=device) for row in tokens.ids]
            states = self._layers(own, [self._position_bias(ids.shape[1]) for ids in own])
            return torch.stack([rows[0, i] for rows, i in zip(states, tokens.index(at), strict=True)])
        mask = torch.tensor(tokens.mask(), device=device) if tokens.is_masked else None
        whole = self.states(torch.tensor(tokens.padded(), device=device), mask)
        return whole if at == "all" else whole[range(len(whole)), tokens.index(at)]

    def _layer(self, x: Tensor, layer: Mapping[str, Tensor], bias: Tensor, eps: float) -> Tensor:
        """One block: attention without a scale, then the feed-forward net. The only bias is that of positions."""
        b, l, _ = x.shape
        heads = int(self.config["num_heads"])
        y = rms_norm(x, layer["0.layer_norm.weight"], eps)
        q, k, v = (
            F.linear(y, layer[f"0.SelfAttention.{n}.weight"]).view(b, l, heads, -1).transpose(1, 2) for n in "qkv"
        )
        y = (
            F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype), scale=1.0)
            .transpose(1, 2)
            .reshape(b, l, -1)
        )
        x = x + F.linear(y, layer["0.SelfAttention.o.weight"])
        y = rms_norm(x, layer["1.layer_norm.weight"], eps)
        kind = str(self.config.get("feed_forward_proj", "relu"))
        require(
            kind in _ACTIVATIONS,
            f"T5 feed-forward {kind!r} is unknown: allowed are {', '.join(_ACTIVATIONS)}",
            ModelError,
        )
        if kind.startswith("gated"):
            y = _ACTIVATIONS[kind](F.linear(y, layer["1.DenseReluDense.wi_0.weight"])) * F.linear(
                y, layer["1.DenseReluDense.wi_1.weight"]
            )
        else:
            y = _ACTIVATIONS[kind](F.linear(y, layer["1.DenseReluDense.wi.weight"]))
        return x + F.linear(y.to(x.dtype), layer["1.DenseReluDense.wo.weight"].to(x.dtype))

    def _position_bias(self, length: int) -> Tensor:
        """The position bias (1, heads, l, l) of all layers.

        Each short distance has its own bucket; long distances share buckets by their logarithm.
        """
        table = self.weights["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
        half = int(self.config.get("relative_attention_num_buckets", 32)) // 2
        farthest, exact = int(self.config.get("relative_attention_max_distance", 128)), half // 2
        place = torch.arange(length, device=table.device)
        ahead = place[None, :] - place[:, None]
        distance = ahead.abs()
        far = (
            exact
            + (torch.log(distance.clamp(min=1).float() / exact) / math.log(farthest / exact) * (half - exact)).long()
        )
        bucket = torch.where(distance < exact, distance, far.clamp(max=half - 1)) + half * (ahead > 0)
        return table[bucket].permute(2, 0, 1)[None]


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Root mean square norm in the weight's dtype; the mean square is always float32, as in transformers."""
    scale = torch.rsqrt(x.float().square().mean(-1, keepdim=True) + eps)
    return weight * (x * scale).to(weight.dtype)
