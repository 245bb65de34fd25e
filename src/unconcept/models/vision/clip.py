"""Embeds pictures and texts with any CLIP on disk, from a transformers folder or one that OpenCLIP wrote.

Pictures are preprocessed here as tensors, with the sizes and means in the folder. Weights must be safetensors.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.errors import ModelError, require
from ...core.hashing import hash_tensors
from ...core.optional_imports import import_optional
from ...core.regular_files import require_own_files
from ..checkpoint.weight_files import weight_files
from ..text.tokenizer import TextTokenizer

_IMAGE_BATCH = 32
_OPENAI_MEAN, _OPENAI_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
Resampling = Literal["bicubic", "bilinear"]
_PILLOW_BICUBIC = 3  # Pillow's number for it, as preprocessor_config.json writes it


@dataclass(frozen=True)
class ClipPreprocessing:
    """The preprocessing of pictures for a CLIP or another network: resize, centre crop, normalise."""

    resize: int | tuple[int, int]  # the shorter side, or (height, width) for any shape
    crop: tuple[int, int] | None
    mean: tuple[float, ...] = _OPENAI_MEAN
    std: tuple[float, ...] = _OPENAI_STD
    resampling: Resampling = "bicubic"

    def __call__(self, pictures: Tensor) -> Tensor:
        """Preprocess pictures (b, 3, h, w) in [0, 1] to (b, 3, crop).

        Differs: published scores read 8-bit files, whereas we do not round before resizing.
        """
        h, w = pictures.shape[-2:]
        short = self.resize
        size = short if isinstance(short, tuple) else (int(h * short / min(h, w)), int(w * short / min(h, w)))
        if size != (h, w):
            pictures = F.interpolate(pictures, size, mode=self.resampling, antialias=True).clamp(0, 1)
        if self.crop is not None:
            pictures = _middle(pictures, *self.crop)
        mean, std = (torch.tensor(values, device=pictures.device).view(3, 1, 1) for values in (self.mean, self.std))
        return (pictures - mean) / std


def _middle(pictures: Tensor, height: int, width: int) -> Tensor:
    top, left = (pictures.shape[-2] - height) // 2, (pictures.shape[-1] - width) // 2
    require(
        top >= 0 and left >= 0,
        f"pictures of {tuple(pictures.shape[-2:])} are smaller than the crop {height} x {width}: give larger ones",
        ModelError,
    )
    return pictures[..., top : top + height, left : left + width]


class ClipTowers(Protocol):
    """The two networks of a CLIP, whose embeddings are not normalised."""

    def embed_images(self, prepared: Tensor) -> Tensor:
        """Embed preprocessed pictures: (b, d)."""

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Embed texts: (n, d). Texts are truncated to the network's length, as for every published CLIP score."""


@dataclass(frozen=True)
class ClipModel:
    """A CLIP that gives unit-length embeddings."""

    name: str  # name of its folder
    hash: str
    towers: ClipTowers
    prepare: ClipPreprocessing
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_of_transformers(self) -> bool:
        """Whether its folder is in transformers' layout, not in OpenCLIP's."""
        return isinstance(self.towers, _Transformers)

    @property
    def vision(self) -> nn.Module:
        """The network that sees; `ModelError` for a CLIP that OpenCLIP wrote, whose layers have other names."""
        if not isinstance(self.towers, _Transformers):
            raise ModelError(f"CLIP {self.name} is in OpenCLIP's layout: give the folder that transformers wrote")
        network: nn.Module = self.towers.model.vision_model
        return network

    def embed_images(self, pictures: Tensor) -> Tensor:
        """Embed pictures (b, 3, h, w) in [0, 1] as (b, d) float32 on the CPU; differentiable in them and in weights."""
        rows = [
            self.towers.embed_images(self.prepare(part.to(self.device, torch.float32)))
            for part in pictures.split(_IMAGE_BATCH)
        ]
        return F.normalize(torch.cat(rows), dim=1).cpu()

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Embed texts as (n, d) float32 on the CPU."""
        rows = [self.towers.embed_texts(texts[i : i + _IMAGE_BATCH]) for i in range(0, len(texts), _IMAGE_BATCH)]
        return F.normalize(torch.cat(rows), dim=1).cpu()


@dataclass(frozen=True)
class ClipTextTower:
    """The text tower of a CLIP, as plain tensors with the names of a diffusers folder's text encoder."""

    weights: dict[str, Tensor]
    config: dict[str, Any]
    scale: float  # factor of cosines in its training loss


def clip_text_tower(clip: ClipModel) -> ClipTextTower:
    """The text tower of a CLIP; `ModelError` for one that OpenCLIP wrote, whose tensors have other names."""
    towers = clip.towers
    if not isinstance(towers, _Transformers):
        raise ModelError(
            f"CLIP {clip.name} is in OpenCLIP's layout: give the folder of the same CLIP that transformers wrote"
            " (config.json)"
        )
    model = towers.model
    weights = dict(model.text_model.named_parameters()) | {"text_projection.weight": model.text_projection.weight}
    return ClipTextTower(weights, model.config.text_config.to_dict(), float(model.logit_scale.exp()))


def load_clip(folder: Path, device: torch.device) -> ClipModel:
    """Load the CLIP of a folder with `config.json` (transformers) or `open_clip_config.json` (needs extra `eval`)."""
    require_own_files(folder, ModelError)
    kinds = {"open_clip_config.json": _open_clip, "config.json": _transformers}
    for file, load in kinds.items():
        if (folder / file).exists():
            weight_files(folder)  # Raises an error on pickles, and on a folder without weights.
            return load(folder, device)
    raise ModelError(f"{folder} holds no CLIP: it has neither {' nor '.join(kinds)}; give a CLIP folder on disk")


def _transformers(folder: Path, device: torch.device) -> ClipModel:
    from transformers import CLIPModel
    from transformers.utils import logging

    config = _json(folder / "config.json")
    require(
        config.get("model_type") == "clip",
        f"{folder} holds a {config.get('model_type')!r} model; give a 'clip'",
        ModelError,
    )
    prepare = _prepared(_json(folder / "preprocessor_config.json"), folder)
    tokenizer = TextTokenizer.load(folder)
    logging.disable_progress_bar()
    model: Any = CLIPModel.from_pretrained(folder, local_files_only=True, use_safetensors=True, dtype=torch.float32)
    model.to(device).eval().requires_grad_(False)
    return ClipModel(folder.name, hash_tensors(model.state_dict()), _Transformers(model, tokenizer), prepare, device)


def _prepared(config: dict[str, Any], folder: Path) -> ClipPreprocessing:
    size, crop = config.get("size", 224), config.get("crop_size", 224)
    if isinstance(size, dict):
        size = size["shortest_edge"] if "shortest_edge" in size else (size["height"], size["width"])
    crop = (crop["height"], crop["width"]) if isinstance(crop, dict) else (crop, crop)
    resample = config.get("resample", _PILLOW_BICUBIC)
    require(
        resample == _PILLOW_BICUBIC,
        f"{folder}: resample {resample} is not supported; only {_PILLOW_BICUBIC} (bicubic) is",
        ModelError,
    )
    cut = crop if config.get("do_center_crop", True) else None
    return ClipPreprocessing(
        size, cut, tuple(config.get("image_mean", _OPENAI_MEAN)), tuple(config.get("image_std", _OPENAI_STD))
    )


@dataclass(frozen=True)
class _Transformers:
    model: Any
    tokenizer: TextTokenizer

    def embed_images(self, prepared: Tensor) -> Tensor:
        features: Tensor = self.model.get_image_features(pixel_values=prepared).pooler_output
        return features

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        length, end = self.tokenizer.length, self.tokenizer.end
        rows = [list(ids) for ids in self.tokenizer.encode(texts)]
        cut = [row if len(row) <= length else [*row[: length - 1], end] for row in rows]
        ids = torch.tensor(
            [[*row, *[self.tokenizer.pad] * (length - len(row))] for row in cut], device=self.model.device
        )
        features: Tensor = self.model.get_text_features(input_ids=ids).pooler_output
        return features


def _open_clip(folder: Path, device: torch.device) -> ClipModel:
    open_clip = import_optional("open_clip", "eval", f"the OpenCLIP folder {folder.name}")
    config = _json(folder / "open_clip_config.json")
    ways = config.get("preprocess_cfg", {})
    mode, how = ways.get("resize_mode", "shortest"), ways.get("interpolation", "bicubic")
    require(
        mode in ("shortest", "squash") and how == "bicubic",
        f"{folder}: resize_mode {mode!r} with {how!r} is not supported; only shortest and squash with bicubic are",
        ModelError,
    )
    model = open_clip.create_model(f"local-dir:{folder}", device=device).eval().requires_grad_(False)
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    size = ways.get("size", config["model_cfg"]["vision_cfg"]["image_size"])
    height, width = (size, size) if isinstance(size, int) else size
    require(
        height == width or mode == "squash",
        f"{folder}: {height} x {width} pictures need resize_mode 'squash', got 'shortest'",
        ModelError,
    )
    prepare = ClipPreprocessing(
        height if mode == "shortest" else (height, width),
        (height, width),
        tuple(ways.get("mean", _OPENAI_MEAN)),
        tuple(ways.get("std", _OPENAI_STD)),
    )
    return ClipModel(
        folder.name, hash_tensors(model.state_dict()), _OpenClip(model, tokenizer, device), prepare, device
    )


@dataclass(frozen=True)
class _OpenClip:
    model: Any
    tokenizer: Any
    device: torch.device

    def embed_images(self, prepared: Tensor) -> Tensor:
        features: Tensor = self.model.encode_image(prepared)
        return features

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        features: Tensor = self.model.encode_text(self.tokenizer(list(texts)).to(self.device))
        return features


def _json(path: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return config
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: {error}; give a complete CLIP folder") from None
