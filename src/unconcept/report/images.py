"""Converts pictures to images and to PNG data URIs for pages, in pairs before and after an edit."""

import base64
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import torch
from PIL import Image
from torch import Tensor


@dataclass(frozen=True)
class ImagePair:
    """A prompt's pictures (3, h, w) before and after; `words` are the judge's answers, empty without a judge."""

    text: str
    before: Tensor
    after: Tensor
    words: tuple[str, str] = ("", "")
    shown: tuple[bool, bool] = (False, False)
    """Whether the judge found what the prompt asks for."""


def to_image(picture: Tensor) -> Image.Image:
    """Convert a picture (3, h, w) in [0, 1] to an 8-bit image."""
    return Image.fromarray((picture.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy())


def data_uri(picture: Tensor) -> str:
    """Encode a picture (3, h, w) as PNG in a `data:` URI."""
    buffer = BytesIO()
    to_image(picture).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def pair_cell(pair: ImagePair) -> dict[str, Any]:
    """What the template of a figure needs of a pair."""
    sides = zip(("before", "after"), (pair.before, pair.after), pair.words, pair.shown, strict=True)
    return {
        "text": pair.text,
        "sides": [
            {"name": name, "uri": data_uri(picture), "word": word, "is_shown": shown}
            for name, picture, word, shown in sides
        ],
    }
