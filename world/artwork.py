"""The artwork file: drawings with their alpha, and the words of each name. `world.render` writes it."""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

CACHE = Path(__file__).parent / "cache"
DATA = CACHE / "artwork.safetensors"
SIZE = 64


@dataclass(frozen=True)
class Artwork:
    """Drawings (n, 4, 64, 64) uint8 with colours premultiplied by alpha, and which (icon, style) each is."""

    pixels: Tensor
    index: dict[tuple[str, str], int]
    words: dict[str, list[str]]  # of each icon: its label, then its tags

    @cached_property
    def hash(self) -> str:
        """Of the drawings and their names."""
        names = json.dumps([*map("/".join, self.index)])
        return hashlib.sha256(self.pixels.cpu().numpy().tobytes() + names.encode()).hexdigest()


def write(path: Path, keys: list[tuple[str, str]], pictures: list[bytes], words: dict[str, list[str]]) -> None:
    """Write compressed pictures, one of each (icon, style) in `keys`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {
        "bytes": torch.from_numpy(np.frombuffer(b"".join(pictures), dtype=np.uint8).copy()),
        "ends": torch.tensor([len(picture) for picture in pictures]).cumsum(0),
    }
    metadata = {"index": json.dumps([f"{icon}/{style}" for icon, style in keys]), "words": json.dumps(words)}
    save_file(tensors, path, metadata=metadata)


def load(path: Path = DATA) -> Artwork:
    """Read the file and decode all of it (a few seconds)."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        data, ends = file.get_tensor("bytes").numpy().tobytes(), file.get_tensor("ends").tolist()
    names = json.loads(metadata["index"])
    pixels = torch.empty(len(names), 4, SIZE, SIZE, dtype=torch.uint8)
    for i, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
        picture = torch.from_numpy(np.asarray(Image.open(BytesIO(data[start:end])).convert("RGBA")).copy())
        pixels[i] = picture.permute(2, 0, 1)
    for part in pixels.split(1024):
        part[:, :3] = (part[:, :3].float() * (part[:, 3:].float() / 255)).round().byte()
    index = {tuple(name.split("/")): i for i, name in enumerate(names)}
    return Artwork(pixels, index, json.loads(metadata["words"]))
