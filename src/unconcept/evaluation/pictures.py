"""Pictures as files: finished chunks of a run as exact floats, samples as PNG, and data URIs for the report."""

import base64
from io import BytesIO
from pathlib import Path

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor


def save_chunk(folder: Path, name: str, start: int, pictures: Tensor) -> None:
    """Keep a finished chunk; the file is whole or not there."""
    path = _chunk(folder, name, start)
    temporary = path.with_suffix(".tmp")
    save_file({"pictures": pictures.contiguous()}, temporary)
    temporary.replace(path)


def load_chunk(folder: Path, name: str, start: int) -> Tensor | None:
    """A chunk that an interrupted run had finished, else None."""
    path = _chunk(folder, name, start)
    try:
        return load_file(path)["pictures"] if path.exists() else None
    except (SafetensorError, KeyError):
        return None


def drop_chunks(folder: Path) -> None:
    for path in folder.glob("chunk-*"):
        path.unlink()


def _chunk(folder: Path, name: str, start: int) -> Path:
    return folder / f"chunk-{name}-{start:06d}.safetensors"


def to_image(picture: Tensor) -> Image.Image:
    """(3, h, w) in [0, 1] to an 8-bit image."""
    return Image.fromarray((picture.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy())


def data_uri(picture: Tensor) -> str:
    buffer = BytesIO()
    to_image(picture).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
