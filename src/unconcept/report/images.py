"""Converts pictures to images and to PNG data URIs for the report."""

import base64
from io import BytesIO

import torch
from PIL import Image
from torch import Tensor


def to_image(picture: Tensor) -> Image.Image:
    """Convert a picture (3, h, w) in [0, 1] to an 8-bit image."""
    return Image.fromarray((picture.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy())


def data_uri(picture: Tensor) -> str:
    """Encode a picture (3, h, w) as PNG in a `data:` URI."""
    buffer = BytesIO()
    to_image(picture).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
