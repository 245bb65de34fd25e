"""Pairs a model's text encoder with the vision tower of the CLIP that it comes from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.errors import ModelError, require
from ..model_view import ModelView
from ..text.clip_encoder import ClipTextEncoder, strip_text_model_prefix
from .clip import ClipModel, ClipTextTower, clip_text_tower, load_clip

_BFLOAT16_ROUNDING = 2.0**-8  # relative, of bfloat16


@dataclass(frozen=True)
class PairedClip:
    """A CLIP whose text tower is a model's live text encoder; `open_paired_clip` makes one.

    Parts that the encoder lacks come from the CLIP, such as the last layer in SD 2.x.
    """

    clip: ClipModel
    tower: ClipTextTower
    model: ModelView
    part: str

    @property
    def scale(self) -> float:
        return self.tower.scale

    @property
    def vision(self) -> nn.Module:
        return self.clip.vision

    def embed_images(self, pictures: Tensor) -> Tensor:
        """Embed pictures (b, 3, h, w) in [0, 1] as (b, d) float32 of unit length, on the CPU."""
        return self.clip.embed_images(pictures)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Embed texts with the live encoder as (n, d) of unit length, on the CPU; differentiable in its weights."""
        live = strip_text_model_prefix(dict(self.model.modules(self.part).named_parameters()))
        like = next(iter(live.values()))
        own = {
            name: tensor.to(like.device, like.dtype) for name, tensor in self.tower.weights.items() if name not in live
        }
        number = self.part.removeprefix("text_encoder")
        tokenizer = self.model.tokenizers[int(number[1:]) - 1 if number else 0]
        return F.normalize(
            ClipTextEncoder(tokenizer, {**own, **live}, self.tower.config).pooled(texts).float(), dim=1
        ).cpu()


def open_paired_clip(folder: Path, model: ModelView, part: str) -> PairedClip:
    """Pair the CLIP in a folder with the model's text encoder `part`.

    `ModelError` unless the CLIP's text tower has the weights of that encoder, up to rounding.
    """
    clip = load_clip(folder, model.device)
    tower = clip_text_tower(clip)
    message = (
        f"CLIP {folder} does not belong to {model.name}'s {part}, because its text tower has other weights: give the"
        " CLIP with which the model was trained"
    )
    require(is_text_tower_of(tower, model, part), message, ModelError)
    return PairedClip(clip, tower, model, part)


def is_text_tower_of(tower: ClipTextTower, model: ModelView, part: str) -> bool:
    """Whether a CLIP's text tower has the weights of the model's text encoder `part`, up to rounding."""
    own = {name: f"{part}.{full}" for full, name in _names(model, part).items()}
    known = model.reference(own.values())
    return all(name in tower.weights and _same(tower.weights[name], known[full]) for name, full in own.items())


def _names(model: ModelView, part: str) -> dict[str, str]:
    """The encoder's parameter names, each with its name without the prefix of older libraries."""
    return {name: name.removeprefix("text_model.") for name, _ in model.modules(part).named_parameters()}


def _same(first: Tensor, second: Tensor) -> bool:
    if first.shape != second.shape:
        return False
    a, b = first.detach().float().cpu(), second.detach().float().cpu()
    return torch.allclose(a, b, rtol=_BFLOAT16_ROUNDING, atol=1e-6)


class VisionTextTower(Protocol):
    """A CLIP whose text tower is one of the model's text encoders: pictures and texts in one space."""

    @property
    def scale(self) -> float:
        """Factor of cosines in its training loss."""

    @property
    def vision(self) -> nn.Module:
        """The network that sees."""

    def embed_images(self, pictures: Tensor) -> Tensor:
        """Embed pictures (b, 3, H, W) in [0, 1] as (b, d) of unit length; differentiable in weights of `vision`."""

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Embed texts with the live encoder as (n, d) of unit length; differentiable in its weights."""


VisionTextTowers = Mapping[str, VisionTextTower]  # by the encoder's part: `text_encoder`, `text_encoder_2`
