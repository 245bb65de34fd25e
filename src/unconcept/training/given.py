"""Pictures that a user gives, with masks of their objects: a table beside them says which is which."""

from pathlib import Path

import numpy
import torch
from PIL import Image
from torch import Tensor

from ..core.errors import DataError, require
from ..prompts.entries import read_header, read_table

COLUMNS = ("target", "picture", "mask")


def given_pictures(table: str, target: str, side: int) -> tuple[Tensor, list[Tensor | None]]:
    """Pictures (n, 3, side, side) of a target in [0, 1], and the mask (1, side, side) bool of each that has one.

    `table` is a CSV file with the columns target, picture, mask; files stand beside it or below. A mask is white on its object; an
    empty cell is none. `DataError` on a target without a picture, on a file that is no picture, is of another size, or lies elsewhere.
    """
    path = Path(table)
    missing = [name for name in COLUMNS if name not in read_header(path)]
    require(not missing, f"{path} has no column {missing[:1]}: it needs {', '.join(COLUMNS)}", DataError)
    rows = [(where, cells) for where, cells in read_table(path) if cells["target"].strip() == target]
    require(bool(rows), f"{path} has no picture of {target!r}: add one, or leave the file out to have them drawn", DataError)
    pictures = [_read(path, where, cells["picture"], side, "RGB") for where, cells in rows]
    masks = [_read(path, where, cells["mask"], side, "L") > 0.5 if cells["mask"].strip() else None for where, cells in rows]
    return torch.stack(pictures), masks


def _read(table: Path, where: str, name: str, side: int, mode: str) -> Tensor:
    folder = table.parent.resolve()
    try:
        path = (folder / name.strip()).resolve()
        inside = path.is_relative_to(folder)
    except (OSError, ValueError):
        inside = False
    require(inside, f"{table}, {where}: {name!r} leaves the folder of the table: put the picture beside it", DataError)
    try:
        with Image.open(path) as image:
            size = image.size
            message = f"{table}, {where}: {name!r} is {size[0]} x {size[1]} pixels, the model draws {side} x {side}: resize it"
            require(size == (side, side), message, DataError)
            pixels = numpy.asarray(image.convert(mode), dtype=numpy.float32)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{table}, {where}: {name!r} cannot be read as a picture: {error}; give a PNG or JPEG file") from None
    found = torch.from_numpy(pixels / 255)
    return found[None] if mode == "L" else found.permute(2, 0, 1)
