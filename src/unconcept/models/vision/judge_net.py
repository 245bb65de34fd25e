"""The networks of the embedded models' judges: a convolutional one, and a transformer, with the same heads.

They tell the object of each cell of a scene, and style, background and count of the whole.
"""

import json
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.errors import ModelError, require
from ...worlds.scenes import SceneWords
from ...worlds.table import ConceptTable
from ..checkpoint.safetensors_io import open_file

CELLS = 8  # places across a picture at which objects are told
CHANNELS = (48, 96, 160)  # of the convolutional one, at a half, a quarter and an eighth of the picture's side
WIDTH = 256
COUNT_CLASSES = 4  # none, one, two, three
_STAGE_ENDS = (0, 2, 4, 6)  # layers of the body


@dataclass(frozen=True)
class Answers:
    """Logits: `objects` (b, labels + 1, 8, 8) of each cell, the last one "nothing"; the others of the whole picture."""

    objects: Tensor
    style: Tensor
    background: Tensor
    count: Tensor


def answers_on_cpu(answers: Answers) -> Answers:
    """The same answers, in float32."""
    return Answers(*(getattr(answers, field.name).float().cpu() for field in fields(Answers)))


@dataclass(frozen=True)
class JudgeLabels:
    """The words of a judge's heads, in their order, without "nothing"."""

    objects: tuple[str, ...]
    styles: tuple[str, ...]
    backgrounds: tuple[str, ...]

    @classmethod
    def of(cls, known: ConceptTable, scenes: SceneWords) -> "JudgeLabels":
        """Those of the world."""
        styles = tuple(entry.name for entry in known.styles)
        return cls(known.labels, styles, tuple(background.name for background in scenes.backgrounds))


class Heads(nn.Module):
    """What both networks end in. The last class of style and background is none of them."""

    def __init__(self, channels: int, objects: int, styles: int, backgrounds: int) -> None:
        super().__init__()
        self.embedding = nn.Linear(2 * channels, WIDTH)
        self.object = nn.Conv2d(channels, objects + 1, 1)
        self.style = nn.Linear(WIDTH, styles + 1)
        self.background = nn.Linear(WIDTH, backgrounds + 1)
        self.count = nn.Linear(WIDTH, COUNT_CLASSES)

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

    def feature_maps(self, pictures: Tensor) -> list[Tensor]:
        """After the stem and after each stage: 48 x 32 x 32, 96 x 16 x 16, 160 x 8 x 8 twice."""
        maps, x = [], (pictures - 0.5) * 4
        for number, layer in enumerate(self.body):
            x = layer(x)
            if number in _STAGE_ENDS:
                maps.append(x)
        return maps

    def forward(self, pictures: Tensor) -> Answers:
        answers: Answers = self.heads(self.body((pictures - 0.5) * 4))
        return answers


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
        features: Tensor = self.layers(tokens).mT.unflatten(2, (CELLS, CELLS))
        return features

    def embed(self, pictures: Tensor) -> Tensor:
        """(b, WIDTH): what the heads of the whole picture read."""
        return self.heads.embed(self._features(pictures))

    def forward(self, pictures: Tensor) -> Answers:
        answers: Answers = self.heads(self._features(pictures))
        return answers


JudgeNet = ConvJudge | PatchJudge
JUDGE_NETWORKS: dict[str, type[JudgeNet]] = {"first": ConvJudge, "second": ConvJudge, "third": PatchJudge}
"""The network of each judge, by the name in its file."""


def load_judge_net(path: Path) -> tuple[JudgeNet, JudgeLabels]:
    """Load the frozen network of a weights file in float32, and its labels."""
    with open_file(path) as file:
        weights = {name: file.get_tensor(name) for name in file.keys() if not name.startswith("clip.")}
        metadata = file.metadata() or {}
    name = metadata.get("name", "")
    require(
        name in JUDGE_NETWORKS,
        f"{path} holds no judge of this version, but {name!r}: give one of {', '.join(JUDGE_NETWORKS)}",
        ModelError,
    )
    labels = JudgeLabels(**{head: tuple(words) for head, words in json.loads(metadata["labels"]).items()})
    net = JUDGE_NETWORKS[name](len(labels.objects), len(labels.styles), len(labels.backgrounds))
    # Batch counts of the norms are stored as half-precision floats.
    known = {n: t.long() if n.endswith("num_batches_tracked") else t.float() for n, t in weights.items()}
    shapes = {n: t.shape for n, t in net.state_dict().items()}
    message = f"{path} holds the {name} judge of another version of this package: take the file that came with it"
    require({n: t.shape for n, t in known.items()} == shapes, message, ModelError)
    net.load_state_dict(known)
    return net.eval().requires_grad_(False), labels


def judge_answers(net: JudgeNet, pictures: Tensor, at_once: int = 64) -> Answers:
    """Answers about pictures (b, 3, 64, 64) in [0, 1], in batches; differentiable in them."""
    parts = [net(part) for part in pictures.float().split(at_once)]
    together = {}
    for field in fields(Answers):
        together[field.name] = torch.cat([getattr(part, field.name) for part in parts])
    return Answers(**together)


def image_embeddings(net: JudgeNet, pictures: Tensor) -> Tensor:
    """Embed pictures (b, 3, 64, 64) in [0, 1] as (b, WIDTH) float32; differentiable in them."""
    return torch.cat([net.embed(part) for part in pictures.float().split(64)])


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
