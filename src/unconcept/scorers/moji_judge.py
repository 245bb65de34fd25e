"""moji-judge: what a picture of `moji` shows, and in whose style. Trained on artwork, never on drawn pictures.

Scores are raw log-probabilities; whether a picture "shows" something is decided later by a named policy.
"""

import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.hashing import hash_tensors

NOTHING = "nothing"
WIDTH = 256


class JudgeNet(nn.Module):
    """A small residual network: (b, 3, 64, 64) in [0, 1] to an embedding (b, WIDTH) and two heads."""

    def __init__(self, objects: int, styles: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 24, 5, 2, 2), nn.BatchNorm2d(24), nn.SiLU())
        self.body = nn.Sequential(_down(24, 48), _Residual(48), _down(48, 96), _Residual(96), _down(96, 160), _Residual(160))
        self.embedding = nn.Linear(2 * 160, WIDTH)
        self.object, self.style = nn.Linear(WIDTH, objects + 1), nn.Linear(WIDTH, styles + 1)

    def embed(self, pictures: Tensor) -> Tensor:
        x = self.body(self.stem((pictures - 0.5) * 4))
        return F.silu(self.embedding(torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)))

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (b, objects + 1) and (b, styles + 1); the last class of each is "nothing"."""
        embedding = self.embed(pictures)
        return self.object(embedding), self.style(embedding)


def _down(into: int, out: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(into, out, 3, 2, 1), nn.BatchNorm2d(out), nn.SiLU())


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.path = nn.Sequential(nn.Conv2d(width, width, 3, 1, 1), nn.BatchNorm2d(width), nn.SiLU(), nn.Conv2d(width, width, 3, 1, 1), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(x + self.path(x))


@dataclass(frozen=True)
class Verdict:
    """The judge's word on one picture under the policy `argmax`: its first guess of each head."""

    object: str  # a label of the table, or "nothing"
    style: str
    confidence: float  # probability of `object`


@dataclass(frozen=True)
class Scores:
    """Raw log-probabilities, rows are pictures: objects (b, n + 1), styles (b, 9)."""

    objects: Tensor
    styles: Tensor


class MojiJudge:
    """The shipped judge. Order of its labels: the table's, then "nothing"."""

    name = "moji-judge"
    version = 1

    def __init__(self, path: Path | None = None) -> None:
        path = path or Path(str(resources.files("unconcept.moji") / "judge.safetensors"))
        with safe_open(path, "pt") as file:
            weights = {n: file.get_tensor(n).float() for n in file.keys() if not n.startswith("clip.")}
            labels = json.loads(file.metadata()["labels"])
        self.hash = hash_tensors(weights)
        self.objects: tuple[str, ...] = (*labels["objects"], NOTHING)
        self.styles: tuple[str, ...] = (*labels["styles"], NOTHING)
        self.net = JudgeNet(len(self.objects) - 1, len(self.styles) - 1).eval().requires_grad_(False)
        self.net.load_state_dict(weights)

    def score(self, pictures: Tensor) -> Scores:
        """Pictures (b, 3, 64, 64) in [0, 1]; differentiable in them."""
        parts = [self.net(part) for part in pictures.float().split(64)]
        objects, styles = (torch.cat(side).log_softmax(1) for side in zip(*parts, strict=True))
        return Scores(objects, styles)

    def decide(self, scores: Scores) -> list[Verdict]:
        """Policy `argmax`."""
        sure, guess = scores.objects.exp().max(1)
        style = scores.styles.argmax(1)
        rows = zip(guess.tolist(), style.tolist(), sure.tolist(), strict=True)
        return [Verdict(self.objects[o], self.styles[s], p) for o, s, p in rows]


def half(pictures: Tensor, side: int) -> Tensor:
    """The left (0) or right (1) object of two-object pictures, as large as a single one."""
    size = pictures.shape[-1]
    top, left = size // 4, side * size // 2
    part = pictures[..., top : top + size // 2, left : left + size // 2]
    return F.interpolate(part, scale_factor=2, mode="bilinear")
