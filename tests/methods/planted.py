"""Eyes for methods that debias, without a picture: what "is seen" follows from the
weights as they are at that moment.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from unconcept.methods import MethodServices


@dataclass
class Planted:
    """Shares are a softmax of a planted bias plus how far the text's reading has moved towards each attribute's, over
    all text maps.
    """

    view: object
    bias: tuple[float, ...] = (1.0, 0.0)
    slope: float = 0.5
    asked: list[tuple[str, int]] = field(default_factory=list)

    @torch.no_grad()
    def __call__(self, text: str, attributes: Sequence[str], pictures: int, turn: int) -> tuple[int, ...]:
        self.asked.append((text, turn))
        shares = torch.softmax(self.logits(text, attributes), 0)
        counts = [round(pictures * float(share)) for share in shares[:-1]]
        return (*counts, pictures - sum(counts))

    def logits(self, text: str, attributes: Sequence[str]) -> torch.Tensor:
        """bias_a + slope * <(W' - W) c, W (a - mean a)> / |W (a - mean a)|^2, summed over the maps before dividing."""
        c, a = self.view.embed([text])[0], self.view.embed(attributes)
        live = self.view.text_maps()
        own = self.view.reference(live)
        apart = a - a.mean(0)
        moved = sum((apart @ own[name].T) @ ((w - own[name]) @ c) for name, w in live.items())
        size = sum((apart @ w.T).square().sum(1) for w in own.values())
        return torch.tensor(self.bias).to(moved) + self.slope * moved / size


@dataclass
class PlantedSight:
    """A vision tower of fixed random directions beside a tiny model's encoder, which says
    a text as its pooled state.
    """

    view: object
    number: int = 0
    scale: float = 10.0

    def embed_images(self, pictures: torch.Tensor) -> torch.Tensor:
        small = torch.nn.functional.adaptive_avg_pool2d(pictures.double(), 4).flatten(1) - 0.5
        width = self.view.widths[self.number]
        directions = torch.randn(small.shape[1], width, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
        return torch.nn.functional.normalize(small @ directions, dim=1)

    def embed_texts(self, texts: Sequence[str]) -> torch.Tensor:
        return torch.nn.functional.normalize(self.view._encoders()[self.number].pooled(texts).double(), dim=1)


def sights(view) -> dict[str, PlantedSight]:
    """One a text encoder."""
    parts = ("text_encoder", "text_encoder_2")[: len(view.widths)]
    return {part: PlantedSight(view, i) for i, part in enumerate(parts)}


def planted_services(view, judge=None) -> MethodServices:
    """All services but, unless one is given, the judge of what is drawn."""
    return MethodServices(Planted(view), judge, lambda model, clips: sights(view))
