"""Embeds pictures and texts with any CLIP on disk, from a transformers folder or one that OpenCLIP wrote.

Pictures are preprocessed here as tensors, with the sizes and means in the folder. Weights must be safetensors.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.errors import ModelError, require
from ...core.hashing import hash_tensors
from ...core.optional_imports import import_optional
from ...core.regular_files import require_own_files
from ..checkpoint.weight_files import weight_files
from ..text.tokenizer import TextTokenizer
from .preprocessing import OPENAI_MEAN, OPENAI_STD, PicturePreprocessing, read_preprocessing
from .transformers_folder import load_network, read_json

if TYPE_CHECKING:
    from transformers import CLIPModel

_IMAGE_BATCH = 32
_DEFAULTS = {  # of CLIP's own processor
    **{"size": {"shortest_edge": 224}, "crop_size": 224, "do_center_crop": True, "resample": 3},
    **{"image_mean": OPENAI_MEAN, "image_std": OPENAI_STD},
}


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
    prepare: PicturePreprocessing
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
    return ClipTextTower(weights, model.config.to_dict()["text_config"], float(model.logit_scale.exp()))


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
    kind = read_json(folder / "config.json").get("model_type")
    require(kind == "clip", f"{folder} holds a {kind!r} model; give a 'clip'", ModelError)
    prepare = read_preprocessing(folder, _DEFAULTS)
    tokenizer = TextTokenizer.load(folder)
    model: CLIPModel = load_network("CLIPModel", folder, "CLIP", device)
    return ClipModel(folder.name, hash_tensors(model.state_dict()), _Transformers(model, tokenizer), prepare, device)


@dataclass(frozen=True)
class _Transformers:
    model: "CLIPModel"
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
    config = read_json(folder / "open_clip_config.json")
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
    prepare = PicturePreprocessing(
        height if mode == "shortest" else (height, width),
        (height, width),
        tuple(ways.get("mean", OPENAI_MEAN)),
        tuple(ways.get("std", OPENAI_STD)),
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
