"""Preprocesses pictures as tensors, with the sizes, means and deviations of a folder's `preprocessor_config.json`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ...core.errors import ModelError, require
from .transformers_folder import read_json

OPENAI_MEAN, OPENAI_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
Resampling = Literal["bicubic", "bilinear"]
_RESAMPLING: dict[int, Resampling] = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers


@dataclass(frozen=True)
class PicturePreprocessing:
    """The preprocessing of pictures for a network: resize, centre crop, normalise."""

    resize: int | tuple[int, int]  # the shorter side, or (height, width) for any shape
    crop: tuple[int, int] | None
    mean: tuple[float, ...] = OPENAI_MEAN
    std: tuple[float, ...] = OPENAI_STD
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


def read_preprocessing(folder: Path, defaults: Mapping[str, object]) -> PicturePreprocessing:
    """Read `preprocessor_config.json`; `defaults` are what the network's processor takes where the file is silent.

    `ModelError` for a file that cannot be read and for what is not supported.
    """
    path = folder / "preprocessor_config.json"
    config = {**defaults, **read_json(path)}
    try:
        crop = _sides(config["crop_size"]) if config.get("do_center_crop") else None
        size = config["size"]
        shorter = size.get("shortest_edge") if isinstance(size, dict) else size if crop else None
        resize = int(shorter) if shorter is not None else _sides(size)
        mean, std = ((float(r), float(g), float(b)) for r, g, b in (config["image_mean"], config["image_std"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path}: its size, crop_size, image_mean or image_std cannot be read: {error!r}") from None
    if not config.get("do_normalize", True):
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    known, resample = " and ".join(f"{number} ({name})" for number, name in _RESAMPLING.items()), config["resample"]
    require(resample in _RESAMPLING, f"{path}: resample {resample} is not supported; only {known} are", ModelError)
    return PicturePreprocessing(resize, crop, mean, std, _RESAMPLING[resample])


def _sides(size: object) -> tuple[int, int]:
    """Height and width, of a table of both or of one number."""
    if isinstance(size, dict):
        return int(size["height"]), int(size["width"])
    if not isinstance(size, int):
        raise TypeError(f"no size: {size}")
    return size, size
