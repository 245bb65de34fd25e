"""Loads a user's images and masks of their objects, as listed in a table beside them."""

from pathlib import Path

import torch
from torch import Tensor

from ...core.errors import DataError, require
from ...core.output_folder import is_inside
from ...models.images import read_picture
from ...prompts.entries import read_header, read_table

_TABLE_COLUMNS = ("target", "picture", "mask")


def load_user_images(table: str, target: str, size: tuple[int, int]) -> tuple[Tensor, list[Tensor | None]]:
    """Load images (n, 3, H, W) of a target in [0, 1], and for each its mask (1, H, W) bool, or None.

    `table` is a CSV file with the columns target, picture, mask; the files lie in its folder or below. A mask is white
    on its object; an empty cell means no mask. Raises `DataError` if the target has no image, or if a file is not an
    image, is not of `size`, or lies elsewhere.
    """
    path = Path(table)
    missing = [name for name in _TABLE_COLUMNS if name not in read_header(path)]
    require(not missing, f"{path} has no column {missing[:1]}: it needs {', '.join(_TABLE_COLUMNS)}", DataError)
    rows = [(where, cells) for where, cells in read_table(path) if cells["target"].strip() == target]
    require(
        bool(rows),
        f"{path} has no picture of {target!r}: add one, or leave the file out to have images generated",
        DataError,
    )
    pictures = [_read(path, where, cells["picture"], size) for where, cells in rows]
    masks = [
        _read(path, where, cells["mask"], size).mean(0, keepdim=True) > 0.5 if cells["mask"].strip() else None
        for where, cells in rows
    ]
    return torch.stack(pictures), masks


def _read(table: Path, where: str, name: str, size: tuple[int, int]) -> Tensor:
    message = f"{table}, {where}: {name!r} is outside the folder of the table: put the file beside the table"
    require(is_inside(table.parent, name.strip()), message, DataError)
    try:
        picture = read_picture(table.parent / name.strip())
    except DataError as error:
        raise DataError(f"{table}, {where}: {error}; give a PNG or JPEG file") from None
    (h, w), (height, width) = picture.shape[1:], size
    require(
        (h, w) == size,
        f"{table}, {where}: {name!r} has {w}x{h} pixels, the model's images {width}x{height}: resize it",
        DataError,
    )
    return picture
