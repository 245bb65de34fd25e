"""Networks that tell what a scene shows: a convolutional one, and a transformer to check it by. Same heads on both."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CELLS = 8  # places across a picture at which objects are told
CHANNELS = (48, 96, 160)  # of the convolutional one, at a half, a quarter and an eighth of the picture's side
WIDTH = 256
COUNTS = 4  # none, one, two, three


@dataclass(frozen=True)
class Answers:
    """Logits: `objects` (b, labels + 1, 8, 8) of each cell, the last one "nothing"; the others of the whole picture."""

    objects: Tensor
    style: Tensor
    background: Tensor
    count: Tensor


def answers_on_cpu(answers: Answers) -> Answers:
    """The same answers, in float32."""
    fields = (answers.objects, answers.style, answers.background, answers.count)
    return Answers(*(field.float().cpu() for field in fields))


class Heads(nn.Module):
    """What both networks end in. The last class of style and background is none of them."""

    def __init__(self, channels: int, objects: int, styles: int, backgrounds: int) -> None:
        super().__init__()
        self.embedding = nn.Linear(2 * channels, WIDTH)
        self.object = nn.Conv2d(channels, objects + 1, 1)
        self.style = nn.Linear(WIDTH, styles + 1)
        self.background = nn.Linear(WIDTH, backgrounds + 1)
        self.count = nn.Linear(WIDTH, COUNTS)

    def embed(self, features: Tensor) -> Tensor:
        """(b, WIDTH) of features (b, channels, 8, 8)."""
        return F.silu(self.embedding(torch.cat([features.mean((2, 3)), features.amax((2, 3))], 1)))

    def forward(self, features: Tensor) -> Answers:
        embedding = self.embed(features)
        return Answers(self.object(features), self.style(embedding), self.background(embedding), self.count(embedding))


class ConvJudge(nn.Module):
    """A small residual network: (b, 3, 64, 64) in [0, 1] to Answers."""

    def __init__(self, objects: int, styles: int, backgrounds: int) -> None:
        super().__init__()
        low, middle, high = CHANNELS
        stem = nn.Sequential(nn.Conv2d(3, low, 5, 2, 2), nn.BatchNorm2d(low), nn.SiLU())
        self.body = nn.Sequential(
            stem,
            _down(low, middle),
            _Residual(middle),
            _down(middle, high),
            _Residual(high),
            _Residual(high, 2),
            _Residual(high, 2),
        )
        self.heads = Heads(high, objects, styles, backgrounds)

    def embed(self, pictures: Tensor) -> Tensor:
        """(b, WIDTH): what the heads of the whole picture read."""
        return self.heads.embed(self.body((pictures - 0.5) * 4))

    def forward(self, pictures: Tensor) -> Answers:
        return self.heads(self.body((pictures - 0.5) * 4))


class PatchJudge(nn.Module):
    """A small transformer over 8 x 8 overlapping patches."""

    def __init__(self, objects: int, styles: int, backgrounds: int, width: int = 192, layers: int = 4) -> None:
        super().__init__()
        # With one convolution it told 71 % of the objects after as many pictures as the other network told 98.
        steps = (nn.Conv2d(3, width // 4, 3, 2, 1), nn.GELU(), nn.Conv2d(width // 4, width // 2, 3, 2, 1), nn.GELU())
        self.patches = nn.Sequential(*steps, nn.Conv2d(width // 2, width, 3, 2, 1))
        self.places = nn.Parameter(0.02 * torch.randn(1, CELLS * CELLS, width))
        layer = nn.TransformerEncoderLayer(width, 6, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, layers, nn.LayerNorm(width), enable_nested_tensor=False)
        self.heads = Heads(width, objects, styles, backgrounds)

    def _features(self, pictures: Tensor) -> Tensor:
        tokens = self.patches((pictures - 0.5) * 4).flatten(2).mT + self.places
        return self.layers(tokens).mT.unflatten(2, (CELLS, CELLS))

    def embed(self, pictures: Tensor) -> Tensor:
        """(b, WIDTH): what the heads of the whole picture read."""
        return self.heads.embed(self._features(pictures))

    def forward(self, pictures: Tensor) -> Answers:
        return self.heads(self._features(pictures))


def _down(into: int, out: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(into, out, 3, 2, 1), nn.BatchNorm2d(out), nn.SiLU())


class _Residual(nn.Module):
    def __init__(self, width: int, dilation: int = 1) -> None:
        super().__init__()
        self.path = nn.Sequential(
            nn.Conv2d(width, width, 3, 1, dilation, dilation),
            nn.BatchNorm2d(width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, 1, 1),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(x + self.path(x))
