"""Puts small pictures before and after an edit on one PNG contact sheet, which holds their texts too."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import torch
from PIL import Image, PngImagePlugin
from torch import Tensor

from ..core.errors import DataError
from .images import ImagePair, to_image

_SIDE = 128  # most pixels of a picture's longer side
_COLUMNS = 8  # most pairs beside each other: before above, after below
_TEXTS = "pairs"  # name of the PNG's text


@dataclass(frozen=True)
class SheetPair:
    """Two pictures of one prompt and seed."""

    pair: ImagePair
    seed: int
    is_target: bool
    """Whether the prompt names what is erased; else it asks for something that should stay."""


def encode_sheet(pairs: Sequence[SheetPair]) -> bytes:
    """The PNG of a contact sheet; pictures are made smaller where they are large, and all have the first one's size."""
    sides = [[_small(one.pair.before), _small(one.pair.after)] for one in pairs]
    width, height = sides[0][0].size
    columns = min(_COLUMNS, len(pairs))
    sheet = Image.new("RGB", (columns * width, 2 * height * -(-len(pairs) // columns)))
    for number, both in enumerate(sides):
        left, top = _corner(number, columns, width, height)
        for row, image in enumerate(both):
            sheet.paste(image, (left, top + row * height))
    texts = [_texts(one) for one in pairs]
    about = PngImagePlugin.PngInfo()
    about.add_text(_TEXTS, json.dumps({"width": width, "height": height, "columns": columns, "pairs": texts}))
    buffer = BytesIO()
    sheet.save(buffer, "PNG", optimize=True, pnginfo=about)
    return buffer.getvalue()


def decode_sheet(data: bytes) -> list[SheetPair]:
    """Take a contact sheet of `encode_sheet` apart; `DataError` for anything else."""
    try:
        sheet = Image.open(BytesIO(data), formats=["PNG"])
        pixels = torch.frombuffer(bytearray(sheet.convert("RGB").tobytes()), dtype=torch.uint8)
        picture = pixels.view(sheet.height, sheet.width, 3).permute(2, 0, 1) / 255
        return list(_pairs(picture, json.loads(sheet.info[_TEXTS])))
    except (OSError, KeyError, TypeError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"no contact sheet of an audit: {error}; delete it, or restore it from a copy") from None


def _pairs(picture: Tensor, about: Mapping[str, Any]) -> Iterator[SheetPair]:
    width, height, columns = (max(1, about[name]) for name in ("width", "height", "columns"))
    for number, one in enumerate(about["pairs"]):
        left, top = _corner(number, columns, width, height)
        before, after = picture[:, top : top + 2 * height, left : left + width].split(height, 1)
        pair = ImagePair(one["text"], before, after, (one["words"][0], one["words"][1]), tuple(one["shown"]))
        yield SheetPair(pair, one["seed"], one["is_target"])


def _texts(one: SheetPair) -> dict[str, object]:
    told = {"text": one.pair.text, "words": one.pair.words, "shown": one.pair.shown}
    return {**told, "seed": one.seed, "is_target": one.is_target}


def _small(picture: Tensor) -> Image.Image:
    image = to_image(picture)
    image.thumbnail((_SIDE, _SIDE))
    return image


def _corner(number: int, columns: int, width: int, height: int) -> tuple[int, int]:
    """Left and top of the first picture of a pair."""
    return number % columns * width, number // columns * 2 * height
