"""Data and networks of `benchmarks.classifiers`: scikit-learn's digits, drawings of `moji`, two small networks."""

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from unconcept.core.errors import DataError
from unconcept.training.forgetting.examples import LabelledImages

DIGITS, DRAWINGS = "digits", "moji"
# Tune objects of `moji` that all eight styles draw.
OBJECTS = ("horse-face", "eagle", "shark", "frog", "octopus", "guitar", "camera", "rose")
SIDE, COPIES_TRAINED, COPIES_TESTED = 32, 6, 2


@dataclass(frozen=True)
class Split:
    """A data set; the test images are other ones, but of drawings other placements."""

    name: str
    train: LabelledImages
    test: LabelledImages
    classes: int
    patch: int


def digits(seed: int) -> Split:
    """8x8 digits, 70 % of them to train with; the split depends on the seed."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise DataError("the digits need scikit-learn: pip install 'unconcept[classifiers]'") from None
    found = load_digits()
    x = torch.from_numpy(found.images).float()[:, None] / 16
    y = torch.from_numpy(found.target).long()
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    trained, tested = order[: int(0.7 * len(y))], order[int(0.7 * len(y)) :]
    return Split(DIGITS, LabelledImages(x[trained], y[trained]), LabelledImages(x[tested], y[tested]), 10, 2)


def drawings(seed: int, folder: Path) -> Split:
    """Objects as classes: each drawing of eight styles, placed at random on even backgrounds."""
    pictures = [[torch.from_numpy(own) for own in object_] for object_ in rendered(folder)]
    rng = torch.Generator().manual_seed(seed)
    sides = []
    for copies in (COPIES_TRAINED, COPIES_TESTED):
        placed = [(place(own, rng), label) for label, styles in enumerate(pictures) for own in styles * copies]
        x = torch.stack([image for image, _ in placed])
        sides.append(LabelledImages(x, torch.tensor([label for _, label in placed])))
    return Split(DRAWINGS, *sides, len(OBJECTS), 8)


def rendered(folder: Path) -> list[list[np.ndarray]]:
    """The drawings (64, 64, 4) of each object, style by style. They are fetched with npm, and kept in the folder."""
    from io import BytesIO

    from world.render import SETS, draw, fetch, icons

    kept = folder / "drawings.npy"
    if not kept.exists():
        try:
            sets = [icons(fetch(package, folder / "npm")) for package in SETS.values()]
        except (OSError, subprocess.CalledProcessError) as error:
            raise DataError(
                f"the drawings of moji cannot be fetched with npm ({error}): connect, or leave them out"
            ) from None
        rows = [[np.asarray(Image.open(BytesIO(draw(own[name])))) for own in sets] for name in OBJECTS]
        np.save(kept, np.array(rows))
    return [list(styles) for styles in np.load(kept)]


def place(drawing: Tensor, rng: torch.Generator) -> Tensor:
    """One drawing (64, 64, 4) uint8 as an image (3, 32, 32) in [0, 1]."""
    size = 20 + int(torch.randint(12, (), generator=rng))
    own = drawing.permute(2, 0, 1).float()[None] / 255
    own = F.interpolate(own, (size, size), mode="bilinear", antialias=True)[0]
    top, left = (int(torch.randint(SIDE - size + 1, (), generator=rng)) for _ in range(2))
    found = torch.rand(3, 1, 1, generator=rng).expand(3, SIDE, SIDE).clone()
    part = found[:, top : top + size, left : left + size]
    part.copy_(own[3:] * own[:3] + (1 - own[3:]) * part)
    return found


class Block(nn.Module):
    """A transformer's block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm1(x)
        x = x + self.attention(h, h, h, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


class SmallViT(nn.Module):
    """Patches, three blocks, the mean of all positions."""

    def __init__(self, split: Split, width: int = 32) -> None:
        super().__init__()
        _, channels, side, _ = split.train.x.shape
        self.patches = nn.Conv2d(channels, width, split.patch, split.patch)
        self.places = nn.Parameter(0.02 * torch.randn((side // split.patch) ** 2, width))
        self.blocks = nn.Sequential(*(Block(width) for _ in range(3)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, split.classes)

    def forward(self, x: Tensor) -> Tensor:
        h = self.patches(x).flatten(2).transpose(1, 2) + self.places
        return self.head(self.norm(self.blocks(h)).mean(1))


def small_cnn(split: Split) -> nn.Module:
    """Three convolutions and a linear map; it has no feed-forward block."""
    _, channels, side, _ = split.train.x.shape
    stride, width = side // 8, 16
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, stride=max(1, stride // 2), padding=1),
        nn.GroupNorm(4, width),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
        nn.GroupNorm(4, 2 * width),
        nn.ReLU(),
        nn.Conv2d(2 * width, 2 * width, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(8 * width, split.classes),
    )


class ResidualMLP(nn.Module):
    """Six residual blocks on 64 numbers: the network of the rows on group sparsity."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {"norm": nn.LayerNorm(64), "mlp": nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64))}
            )
            for _ in range(6)
        )
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = x.flatten(1)
        for block in self.blocks:
            h = h + block["mlp"](block["norm"](h))
        return self.head(h)


def plain_mlp() -> nn.Module:
    """64-128-64-10."""
    layers = [nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)]
    return nn.Sequential(*layers)


def built(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """A network whose first values depend on the seed alone."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()
