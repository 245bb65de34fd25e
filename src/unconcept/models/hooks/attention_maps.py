"""Records attention probabilities of picture over text during a denoiser's forward pass, without changing it."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...core.errors import require
from ..model_view import ModelView
from .cross_attention import KEY_VALUE_SUFFIX, AttentionInputs, MixingStep, cross_attentions, steer_attentions
from .modules import denoiser_modules, text_stream_linears

_ADDED_KEY_SUFFIX = ".add_k_proj.weight"
AttentionRecord = dict[str, list[Tensor]]  # by the attention's full name, one (b, heads, p, l) for each call


def text_attentions(model: ModelView) -> dict[str, nn.Module]:
    """Attentions from the picture to the text, by full name: cross-attentions of a UNet, joint ones of SD3 and FLUX.

    FLUX's single blocks are left out, because they do not separate text from picture.
    """
    if streams := text_stream_linears(model):
        return denoiser_modules(
            model, [name.removesuffix(_ADDED_KEY_SUFFIX) for name in streams if name.endswith(_ADDED_KEY_SUFFIX)]
        )
    maps = model.text_maps()
    return dict(
        zip(dict.fromkeys(KEY_VALUE_SUFFIX.sub("", name) for name in maps), cross_attentions(model, maps), strict=True)
    )


def grid_sides(sides: tuple[int, int], places: int) -> tuple[int, int]:
    """Return the sides of a grid with the given number of places, in the proportion of the latents."""
    h = round((places * sides[0] / sides[1]) ** 0.5)
    require(h > 0 and places % h == 0, f"{places} places form no grid in the proportion of latents {sides}")
    return h, places // h


@contextmanager
def record_attention(
    model: ModelView, places: Mapping[str, nn.Module], tokens: Sequence[int] | None = None, text_queries: bool = False
) -> Iterator[AttentionRecord]:
    """Record the probabilities of attentions, named as by `text_attentions`: one (b, heads, p, l) for each call.

    p are the positions of the picture, row by row, in a joint attention with `text_queries` after those of the text; l
    are the text's tokens, or only those at positions `tokens`. The
    probabilities have gradients. In a joint attention, positions also attend to each other, so a row sums to less than
    1. In a cross-attention with rules, they are computed from what the rules pass on. Outputs stay bitwise the same.
    """
    kept: AttentionRecord = {name: [] for name in places}
    names = {module: name for name, module in places.items()}

    def keep(attention: nn.Module, found: Tensor) -> None:
        kept[names[attention]].append(found if tokens is None else found[..., list(tokens)])

    def rule(reading: AttentionInputs, mix: MixingStep) -> Tensor:
        keep(
            reading.attention,
            _looked(_split(reading.queries, reading.attention), _split(reading.keys, reading.attention)),
        )
        return mix(reading)

    with (
        _watched(places.values(), keep, text_queries)
        if model.spec.attention == "joint"
        else steer_attentions(places.values(), rule)
    ):
        yield kept


@contextmanager
def _watched(
    attentions: Iterable[nn.Module], keep: Callable[[nn.Module, Tensor], None], text_queries: bool
) -> Iterator[None]:
    """Record joint attentions, which `steer_attentions` does not support."""
    before: list[tuple[Any, Any]] = [(module, module.processor) for module in attentions]
    try:
        for module, own in before:
            module.set_processor(_Watched(own, keep, text_queries))
        yield
    finally:
        for module, own in before:
            module.set_processor(own)


@dataclass(frozen=True)
class _Watched:
    """An attention processor that passes the probabilities to `keep` and then calls the original processor."""

    own: Any
    keep: Callable[[nn.Module, Tensor], None]
    text_queries: bool

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Any:
        assert encoder_hidden_states is not None
        kept = _joint(attn, hidden_states, encoder_hidden_states, image_rotary_emb, self.text_queries, attention_mask)
        self.keep(attn, kept)
        # FLUX's processor takes a rotary embedding, SD3's does not.
        rotary = {} if image_rotary_emb is None else {"image_rotary_emb": image_rotary_emb}
        return self.own(attn, hidden_states, encoder_hidden_states, attention_mask, **rotary)


def _joint(
    attn: Any,
    x: Tensor,
    text: Tensor,
    rotary: tuple[Tensor, Tensor] | None,
    text_queries: bool,
    bias: Tensor | None,
) -> Tensor:
    """The text's columns (b, heads, p, l) of the picture's rows, or of all, from a softmax over text and picture.

    `bias` (b, 1, l + p, l + p) is added to the logits.
    """
    q, k = _normed(attn.to_q(x), attn, "norm_q"), _normed(attn.to_k(x), attn, "norm_k")
    words = _normed(attn.add_k_proj(text), attn, "norm_added_k")
    l = words.shape[2]
    if rotary is not None:  # FLUX's positions count the text first.
        q, k, words = (
            _turned(q, rotary, slice(l, None)),
            _turned(k, rotary, slice(l, None)),
            _turned(words, rotary, slice(l)),
        )
    if text_queries:
        asking = _normed(attn.add_q_proj(text), attn, "norm_added_q")
        q = torch.cat([asking if rotary is None else _turned(asking, rotary, slice(l)), q], 2)
    if bias is not None and not text_queries:
        bias = bias[:, :, l:]
    return _looked(q, torch.cat([words, k], 2), bias)[..., :l]


def _turned(rows: Tensor, rotary: tuple[Tensor, Tensor], at: slice) -> Tensor:
    """Apply the rotary embedding to rows (b, heads, n, d): `rotary` holds cosines and sines (l + p, d), `at` a part."""
    from diffusers.models.embeddings import apply_rotary_emb

    own: Any = tuple(part[at] for part in rotary)
    found: Any = apply_rotary_emb(rows, own)
    rotated: Tensor = found
    return rotated


def _normed(rows: Tensor, attn: Any, norm: str) -> Tensor:
    """(b, n, o) to (b, heads, n, o / heads), normalised if the attention has that norm."""
    own, parts = getattr(attn, norm, None), _split(rows, attn)
    return parts if own is None else own(parts)


def _split(rows: Tensor, attn: Any) -> Tensor:
    by_head: Tensor = rows.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
    return by_head


def _looked(q: Tensor, k: Tensor, bias: Tensor | None = None) -> Tensor:
    """softmax(Q K^T / sqrt(width of a head) + bias), (b, heads, p, l), in float32 or wider."""
    wide = torch.promote_types(q.dtype, torch.float32)
    logits = q.to(wide) @ k.to(wide).transpose(-1, -2) / q.shape[-1] ** 0.5
    return torch.softmax(logits if bias is None else logits + bias.to(wide), -1)
