"""Classes that a small transformer-like classifier, or one of convolutions, learns in a moment."""

from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unconcept.models.module_view import ModuleView
from unconcept.training.forgetting.examples import ClassRequest, LabelledImages

CLASSES, WIDTH = 5, 12


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mlp(self.norm(x))


def data(seed: int, count: int = 40) -> LabelledImages:
    """Clusters around fixed centres, `count` of each class."""
    centres = torch.randn(CLASSES, WIDTH, generator=torch.Generator().manual_seed(0))
    rng, y = torch.Generator().manual_seed(seed), torch.arange(CLASSES).repeat_interleave(count)
    return LabelledImages(2 * centres[y] + torch.randn(len(y), WIDTH, generator=rng), y)


def network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(Block(), Block(), Block(), nn.LayerNorm(WIDTH), nn.Linear(WIDTH, CLASSES))


@cache
def _trained_weights() -> dict[str, Tensor]:
    found, own = network(), data(1)
    rule = torch.optim.Adam(found.parameters(), 1e-2)
    for _ in range(60):
        rule.zero_grad()
        F.cross_entropy(found(own.x), own.y).backward()
        rule.step()
    return found.state_dict()


def trained() -> ModuleView:
    """A classifier that knows all classes."""
    found = network()
    found.load_state_dict(_trained_weights())
    return ModuleView(found.eval(), "the toy")


def request(classes: list[int], earlier: tuple[int, ...] = ()) -> ClassRequest:
    """Forget classes and retain the others but for those that are gone, of which a third is at hand."""
    own = data(1)
    others = [c for c in range(CLASSES) if c not in classes and c not in earlier]
    kept = own.of_classes(others)
    return ClassRequest(own.of_classes(classes), LabelledImages(kept.x[::3], kept.y[::3]))


@torch.no_grad()
def accuracy(view: ModuleView, classes: list[int]) -> float:
    own = data(2).of_classes(classes)
    return float((view.network(own.x).argmax(1) == own.y).float().mean())
