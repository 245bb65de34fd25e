"""The network that both of `moji`'s scorers use."""

import json
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional as F

_EMBEDDING_WIDTH = 256


class JudgeNet(nn.Module):
    """A small residual network: (b, 3, 64, 64) in [0, 1] to an embedding (b, WIDTH) and two heads."""

    def __init__(self, objects: int, styles: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 24, 5, 2, 2), nn.BatchNorm2d(24), nn.SiLU())
        self.body = nn.Sequential(
            _down(24, 48), _Residual(48), _down(48, 96), _Residual(96), _down(96, 160), _Residual(160)
        )
        self.embedding = nn.Linear(2 * 160, _EMBEDDING_WIDTH)
        self.object, self.style = nn.Linear(_EMBEDDING_WIDTH, objects + 1), nn.Linear(_EMBEDDING_WIDTH, styles + 1)

    def embed(self, pictures: Tensor) -> Tensor:
        x = self.body(self.stem((pictures - 0.5) * 4))
        return F.silu(self.embedding(torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)))

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (b, objects + 1) and (b, styles + 1); the last class of each is "nothing"."""
        embedding = self.embed(pictures)
        return self.object(embedding), self.style(embedding)


def image_embeddings(net: JudgeNet, pictures: Tensor) -> Tensor:
    """Embed pictures (b, 3, 64, 64) in [0, 1] as (b, WIDTH) float32; differentiable in the pictures."""
    return torch.cat([net.embed(part) for part in pictures.float().split(64)])


def _down(into: int, out: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(into, out, 3, 2, 1), nn.BatchNorm2d(out), nn.SiLU())


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.path = nn.Sequential(
            nn.Conv2d(width, width, 3, 1, 1),
            nn.BatchNorm2d(width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, 1, 1),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(x + self.path(x))


def load_net(path: Path) -> tuple[JudgeNet, dict[str, list[str]]]:
    """Load the frozen network of a weights file in float32, and the labels of its heads."""
    with safe_open(path, "pt") as file:
        weights = {n: file.get_tensor(n).float() for n in file.keys() if not n.startswith("clip.")}
        labels = json.loads(file.metadata()["labels"])
    net = JudgeNet(len(labels["objects"]), len(labels["styles"])).eval().requires_grad_(False)
    net.load_state_dict(weights)
    return net, labels
