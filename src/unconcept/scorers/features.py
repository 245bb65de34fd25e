"""Feature extractors for distances between sets of images.

The name of a distance includes the extractor's (`metrics/frechet.py`).
"""

from pathlib import Path

import torch
from torch import Tensor

from ..core.hashing import hash_tensors
from ..models.loading import find_device
from ..models.vision.clip import load_clip
from ..models.vision.judge_net import image_embeddings, load_judge_net
from ..worlds.registry import JUDGE_WEIGHTS
from .registry import scorer


@scorer("clip-embedding", reads="set")
class ClipEmbedding:
    """Unit-length image embeddings of a CLIP from a folder; OpenAI's ViT-L/14 at 336 gives CMMD's features."""

    version = 1

    def __init__(self, path: Path, device: str = "auto") -> None:
        self.clip = load_clip(path, find_device(device))
        self.name, self.hash = f"clip:{self.clip.name}", self.clip.hash

    @torch.no_grad()
    def features(self, pictures: Tensor) -> Tensor:
        """Return features (b, d) float32 of images (b, 3, h, w) in [0, 1]."""
        return self.clip.embed_images(pictures)


@scorer("moji-judge-embedding", reads="set")
class JudgeEmbedding:
    """Features of `moji`'s judge before its output heads: 256 numbers for a 64 x 64 image."""

    name = "moji-judge-embedding"
    version = 2

    def __init__(self, path: Path | None = None) -> None:
        self.net = load_judge_net(path or JUDGE_WEIGHTS)[0]
        self.hash = hash_tensors(self.net.state_dict())

    @torch.no_grad()
    def features(self, pictures: Tensor) -> Tensor:
        """Return features (b, 256) float32 of images (b, 3, 64, 64) in [0, 1]."""
        return image_embeddings(self.net, pictures)
