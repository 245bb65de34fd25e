"""Reads picture files as tensors: a single file, or a user's folder at the size that a model needs."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional as F

from ..core.errors import DataError, require
from ..core.regular_files import require_regular_file
from .diffusion.vae import picture_size
from .model_view import ModelView

_MOST_PIXELS = 1 << 26  # a picture of 8192x8192
_LEAST_CONTRAST = 1 / 255  # between the darkest and the brightest value of a colour
_MOST_PICTURES = 1000  # in a folder, whose pictures are all in memory at once
_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
_METADATA = ("exif", "xmp", "XML:com.adobe.xmp", "photoshop", "comment")  # as Pillow names them
_IMAGE_FILES_RULE = "give a folder that contains only .png, .jpg and .jpeg files"


def read_picture(path: Path) -> Tensor:
    """Read a picture file as RGB (3, h, w) in [0, 1], upright, in steps of 1/255.

    `DataError` if the file is missing, broken, no regular file, or larger than 8192x8192 pixels.
    """
    require_regular_file(path, DataError)
    try:
        with Image.open(path) as image:
            size = image.size
            require(
                size[0] * size[1] <= _MOST_PIXELS,
                f"{path} has {size[0]}x{size[1]} pixels, more than {_MOST_PIXELS:,}: give a smaller picture",
                DataError,
            )
            pixels = np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, UnidentifiedImageError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"picture {path}: {getattr(error, 'strerror', None) or error}") from None
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


def read_picture_folder(folder: Path, model: ModelView, least: int) -> Tensor:
    """Read a folder of pictures as (n, 3, H, W) in [0, 1] at the model's own size; see `read_fitted_pictures`."""
    return read_fitted_pictures(folder, *picture_size(model), least)


def read_fitted_pictures(folder: Path, height: int, width: int, least: int) -> Tensor:
    """Read a folder of pictures as (n, 3, height, width) in [0, 1], in the order of their names.

    Each picture is scaled by its shorter side and cropped to the middle. `DataError` if the folder contains anything
    else, fewer than `least` pictures, one that would have to be enlarged, or one that shows nothing.
    """
    files = picture_files(folder)
    require(len(files) >= least, f"pictures {folder}: the folder has {len(files)}, give at least {least}", DataError)
    require(
        len(files) <= _MOST_PICTURES,
        f"pictures {folder}: the folder has {len(files)}, give at most {_MOST_PICTURES}",
        DataError,
    )
    found = torch.stack([_fitted(path, height, width) for path in files])
    blank = [path.name for path, nothing in zip(files, of_one_colour(found).tolist(), strict=True) if nothing]
    message = f"pictures {folder}: {len(blank)} of {len(files)} are of one colour and show nothing, {blank[:1]} first"
    require(not blank, f"{message}: leave them out", DataError)
    return found


def picture_files(folder: Path) -> list[Path]:
    """The picture files of a folder in the order of their names, without hidden ones.

    `DataError` if there is no such folder, or if it contains anything else.
    """
    require(folder.is_dir(), f"pictures {folder}: the folder does not exist; {_IMAGE_FILES_RULE}", DataError)
    try:
        files = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise DataError(f"pictures {folder}: {error.strerror or error}; give a readable folder") from None
    wrong = next((path for path in files if path.is_dir() or path.suffix.lower() not in _IMAGE_SUFFIXES), None)
    require(wrong is None, f"{wrong} is not a picture: {_IMAGE_FILES_RULE}", DataError)
    return files


def has_metadata(path: Path) -> bool:
    """Whether a picture file that can be read holds more than pixels: EXIF, XMP, IPTC or a comment."""
    with Image.open(path) as image:
        return bool(image.getexif()) or any(name in image.info for name in _METADATA)


def of_one_colour(pictures: Tensor) -> Tensor:
    """Whether each of the pictures (n, 3, H, W) is of one colour: (n,)."""
    flat = pictures.flatten(2)
    blank: Tensor = (flat.amax(2) - flat.amin(2)).amax(1) <= _LEAST_CONTRAST
    return blank


def _fitted(path: Path, height: int, width: int) -> Tensor:
    picture = read_picture(path)
    h, w = picture.shape[1:]
    message = (
        f"{path} has {w}x{h} pixels, but the model draws {width}x{height}: give a picture at least as large, since the"
        " model would learn the blur of an enlarged one"
    )
    require(h >= height and w >= width, message, DataError)
    scale = max(height / h, width / w)
    size = max(height, round(h * scale)), max(width, round(w * scale))
    scaled = F.interpolate(picture[None], size, mode="bicubic", antialias=True)[0].clamp(0, 1)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return scaled[:, top : top + height, left : left + width]
