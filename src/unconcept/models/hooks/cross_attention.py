"""Steers cross-attention with temporary rules, which change its queries, keys and values, or how they are mixed.

No weight is changed. A rule treats each row of a batch on its own: it knows neither the batch nor which half of it
guidance fills with the empty text.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.errors import ModelError, require
from ..model_view import ModelView
from .low_rank import without_per_row_adapters

KEY_VALUE_SUFFIX = re.compile(r"\.to_[kv]\.weight$")
_UNSUPPORTED_STEPS = ("norm_q", "norm_k", "norm_cross", "group_norm", "spatial_norm", "added_kv_proj_dim")
_NULL_TEXT_TOLERANCE = 1e-3  # relative distance of text states that differ by arithmetic alone, in float32 or wider


@dataclass(frozen=True)
class AttentionInputs:
    """Inputs of one cross-attention for b prompts, with p positions of the picture, l tokens and o = heads * width."""

    attention: Any  # the module, with its maps to_q, to_k, to_v and its number of heads
    states: Tensor  # (b, l, d)
    queries: Tensor  # (b, p, o)
    keys: Tensor  # (b, l, o)
    values: Tensor  # (b, l, o)

    def with_text(self, states: Tensor) -> "AttentionInputs":
        """The same queries with keys and values of another text (1, l', d), which belongs to no row of the batch."""
        with without_per_row_adapters(self.attention.to_k), without_per_row_adapters(self.attention.to_v):
            return replace(self, states=states, keys=self.attention.to_k(states), values=self.attention.to_v(states))

    def value_map(self, states: Tensor) -> Tensor:
        """The values of text states (.., d) that belong to no row of the batch."""
        with without_per_row_adapters(self.attention.to_v):
            value: Tensor = self.attention.to_v(states)
        return value


MixingStep = Callable[[AttentionInputs], Tensor]  # to (b, p, o), before the output map


class MixingRule(Protocol):
    """A step around the mixing of a cross-attention."""

    def __call__(self, reading: AttentionInputs, mix: MixingStep) -> Tensor:
        """Return the mixed values (b, p, o); `mix` is the mixing with all rules added before this one."""


def mix_values(reading: AttentionInputs) -> Tensor:
    """softmax(Q K^T / sqrt(width of a head)) V for each head: attention without rules."""
    heads = reading.attention.heads

    def split(part: Tensor) -> Tensor:
        part = part.expand(len(reading.queries), -1, -1)
        by_head: Tensor = part.unflatten(-1, (heads, -1)).transpose(1, 2)
        return by_head

    found = F.scaled_dot_product_attention(split(reading.queries), split(reading.keys), split(reading.values))
    return found.transpose(1, 2).flatten(2)


@dataclass(frozen=True)
class _Mixer:
    """An attention processor: the stock computation with rules around its mixing, the last rule outermost."""

    rules: tuple[MixingRule, ...]

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        require(
            attention_mask is None,
            "an attention with a mask on the text cannot be steered: leave the mask out",
            ModelError,
        )
        mix: MixingStep = mix_values
        for rule in self.rules:
            mix = partial(rule, mix=mix)
        queries, keys, values = (
            attn.to_q(hidden_states),
            attn.to_k(encoder_hidden_states),
            attn.to_v(encoder_hidden_states),
        )
        found = mix(AttentionInputs(attn, encoder_hidden_states, queries, keys, values)).to(hidden_states.dtype)
        for step in attn.to_out:
            found = step(found)
        return found


def cross_attentions(model: ModelView, maps: Iterable[str]) -> list[nn.Module]:
    """The live attentions to which text maps (full names) belong.

    `ModelError` if the model lacks one, or if one computes more than plain attention.
    """
    denoiser, found = model.modules("denoiser"), []
    for name in dict.fromkeys(KEY_VALUE_SUFFIX.sub("", name.partition(".")[2]) for name in maps):
        try:
            module: Any = denoiser.get_submodule(name)
        except AttributeError:
            raise ModelError(
                f"the model {model.name} has no {name}: the edit is for another family; give a model of that family"
            ) from None
        stock = (
            all(getattr(module, step, None) in (None, False) for step in _UNSUPPORTED_STEPS)
            and not module.residual_connection
        )
        require(
            stock and module.rescale_output_factor == 1,
            f"{model.name}: {name} normalises its inputs or outputs, but only plain attention can be steered: choose"
            " another model, or an edit that changes weights",
            ModelError,
        )
        found.append(module)
    return found


@contextmanager
def steer_attentions(attentions: Iterable[nn.Module], rule: MixingRule) -> Iterator[None]:
    """Add a rule to the mixing of each attention inside the block, around the rules that it already has."""
    before: list[tuple[Any, Any]] = [(module, module.processor) for module in attentions]
    try:
        for module, own in before:
            module.set_processor(_Mixer((*(own.rules if isinstance(own, _Mixer) else ()), rule)))
        yield
    finally:
        for module, own in before:
            module.set_processor(own)


@torch.no_grad()
def is_null_text(states: Tensor, null: Tensor) -> Tensor:
    """Whether each row (b, l, d) is the empty text's states `null` (l, d), or zero as on SDXL's unguided side: (b,)."""
    wide = torch.promote_types(states.dtype, torch.float32)
    rows, own = states.detach().to(wide).flatten(1), null.to(states.device, wide).flatten()
    zero = rows.abs().amax(1) == 0
    if rows.shape[1:] != own.shape:
        return zero
    close = max(_NULL_TEXT_TOLERANCE, 4 * torch.finfo(states.dtype).eps)
    close_rows: Tensor = zero | ((rows - own).norm(dim=1) <= close * own.norm())
    return close_rows
