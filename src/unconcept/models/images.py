"""Picture files as tensors: of one file, and of a folder of a user's own as a model needs them."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional as F

from ..core.errors import DataError, require
from .diffusion.vae import picture_size
from .model_view import ModelView

_MOST_PIXELS = 1 << 26  # a picture of 8192x8192
_MOST_PICTURES = 1000  # of a folder: they are all held at once
_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
_IMAGE_FILES_RULE = "a folder of pictures holds .png, .jpg and .jpeg files alone"


def read_picture(path: Path) -> Tensor:
    """An RGB picture file as (3, h, w) in [0, 1], upright, in steps of 1/255; `DataError` on what is missing, broken or
    absurdly large.
    """
    try:
        with Image.open(path) as image:
            size = image.size
            require(
                size[0] * size[1] <= _MOST_PIXELS,
                f"{path} claims {size[0]}x{size[1]} pixels, which no picture here has",
                DataError,
            )
            pixels = np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, UnidentifiedImageError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"picture {path}: {error}") from None
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


def read_picture_folder(folder: Path, model: ModelView, least: int) -> Tensor:
    """(n, 3, H, W) in [0, 1] at the model's own size: each scaled to its shorter side and cut out of the middle, by
    name in order.

    `DataError` for a folder with something else in it, with fewer than `least`, or with a picture that would have to be
    enlarged.
    """
    require(folder.is_dir(), f"pictures {folder}: there is no such folder; {_IMAGE_FILES_RULE}", DataError)
    try:
        files = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise DataError(f"pictures {folder}: {error.strerror or error}; give a folder that can be read") from None
    wrong = next((path for path in files if path.is_dir() or path.suffix.lower() not in _IMAGE_SUFFIXES), None)
    require(wrong is None, f"{wrong} is no picture: {_IMAGE_FILES_RULE}", DataError)
    require(len(files) >= least, f"pictures {folder}: {len(files)} there, at least {least} are needed", DataError)
    require(
        len(files) <= _MOST_PICTURES,
        f"pictures {folder}: {len(files)} there, at most {_MOST_PICTURES} can be taken",
        DataError,
    )
    return torch.stack([_fitted(path, *picture_size(model)) for path in files])


def _fitted(path: Path, height: int, width: int) -> Tensor:
    picture = read_picture(path)
    h, w = picture.shape[1:]
    message = (
        f"{path} is of {w}x{h} pixels, the model draws {width}x{height}: give a picture at least as large, enlarging"
        " would teach its blur"
    )
    require(h >= height and w >= width, message, DataError)
    scale = max(height / h, width / w)
    size = max(height, round(h * scale)), max(width, round(w * scale))
    scaled = F.interpolate(picture[None], size, mode="bicubic", antialias=True)[0].clamp(0, 1)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return scaled[:, top : top + height, left : left + width]
