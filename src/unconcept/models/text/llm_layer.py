"""Passes states through one layer of a causal language model, whose matrices are read one after another.

Qwen3, Qwen2.5-VL and Mistral have the same parts: self-attention and a gated MLP, each behind a norm.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_INNER_BYTES = 2**28  # of inner states of the MLP in memory at once, at most


@dataclass(frozen=True)
class LlmLayer:
    """A layer without weights, and where they are read from."""

    skeleton: nn.Module
    weights: Mapping[str, Tensor]
    prefix: str
    """What stands before its tensors' names."""

    def forward(self, hidden: list[Tensor], masks: Sequence[Tensor | None], turns: Sequence[Any]) -> None:
        """Replace the states (b, l, d) of each block.

        The tensors of self-attention are in memory together, then those of the MLP one by one.
        """
        normal, attention = self._read("input_layernorm"), self._read("self_attn")
        for i, (mask, turn) in enumerate(zip(masks, turns, strict=True)):
            rows = self._call("input_layernorm", normal, hidden[i])
            moved, _ = self._call("self_attn", attention, rows, attention_mask=mask, position_embeddings=turn)
            hidden[i] = hidden[i] + moved
        del attention
        normal = self._read("post_attention_layernorm")
        for group in self._groups(hidden):
            rows = [self._call("post_attention_layernorm", normal, hidden[i]) for i in group]
            for i, moved in zip(group, self._mlp(rows), strict=True):
                hidden[i] = hidden[i] + moved

    def _mlp(self, rows: Sequence[Tensor]) -> list[Tensor]:
        weight, activation = self._read("mlp.gate_proj"), self.skeleton.get_submodule("mlp.act_fn")
        inner = [activation(self._call("mlp.gate_proj", weight, each)) for each in rows]
        del weight
        weight = self._read("mlp.up_proj")
        for i, each in enumerate(rows):
            inner[i] = inner[i] * self._call("mlp.up_proj", weight, each)
        del weight
        weight = self._read("mlp.down_proj")
        return [self._call("mlp.down_proj", weight, each) for each in inner]

    def _read(self, part: str) -> dict[str, Tensor]:
        names = (name for name, _ in self.skeleton.get_submodule(part).named_parameters())
        return {name: self.weights[f"{self.prefix}{part}.{name}"] for name in names}

    def _call(self, part: str, tensors: Mapping[str, Tensor], rows: Tensor, **given: Any) -> Any:
        return torch.func.functional_call(self.skeleton.get_submodule(part), dict(tensors), (rows,), given)

    def _groups(self, hidden: Sequence[Tensor]) -> Iterator[list[int]]:
        """Numbers of blocks whose inner states fit into memory together."""
        width = self.skeleton.get_submodule("mlp.gate_proj").get_parameter("weight").shape[0]
        group, size = list[int](), 0
        for i, states in enumerate(hidden):
            more = width * states.shape[:-1].numel() * states.element_size()
            if group and size + more > _INNER_BYTES:
                yield group
                group, size = [], 0
            group.append(i)
            size += more
        yield group
