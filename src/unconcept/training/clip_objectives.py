"""Pictures through a CLIP that reads with the model's own encoder: how far they are from their names, and which names
are nearest.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from ..models.vision.paired_clip import VisionTextTower


@dataclass(frozen=True)
class ImageTextPairs:
    """Pictures (n, 3, H, W) of targets and of retained texts, which come in turn: first for gradients, then for a
    search.
    """

    targets: tuple[str, ...]
    retain: tuple[str, ...]
    captions: tuple[str, ...]  # of the retained pictures
    pictures: tuple[Tensor, Tensor, Tensor, Tensor]  # targets, retained; the same again

    @torch.no_grad()
    def embed_with(self, sight: VisionTextTower) -> "EmbeddedPairs":
        """Through one vision tower."""
        return EmbeddedPairs(self, sight, tuple(sight.embed_images(part) for part in self.pictures))


@dataclass(frozen=True)
class EmbeddedPairs:
    """The same as rows (n, d) of unit length, and the losses and shares that are made of them."""

    pairs: ImageTextPairs
    sight: VisionTextTower
    rows: tuple[Tensor, ...]
    numbers: tuple[Tensor, ...] = field(init=False)  # of each row's text

    def __post_init__(self) -> None:
        counts = (len(self.pairs.targets), len(self.pairs.retain)) * 2
        object.__setattr__(
            self,
            "numbers",
            tuple(torch.arange(len(rows)) % count for rows, count in zip(self.rows, counts, strict=True)),
        )

    def forget_loss(self) -> Tensor:
        """The mean of 1 - cos(picture, name) over the targets' pictures."""
        names = self.sight.embed_texts(self.pairs.targets)[self.numbers[0]]
        return (1 - (self.rows[0] * names).sum(1)).mean()

    def contrastive_loss(self, size: int) -> Tensor:
        """CLIP's own loss on retained pictures and captions, the mean of batches."""
        found = []
        for begin in range(0, len(self.rows[1]), size):
            seen, said = (
                self.rows[1][begin : begin + size],
                self.sight.embed_texts(self.pairs.captions[begin : begin + size]),
            )
            likeness, own = self.sight.scale * seen @ said.T, torch.arange(len(seen))
            found.append((F.cross_entropy(likeness, own) + F.cross_entropy(likeness.T, own)) / 2)
        return torch.stack(found).mean()

    def accuracies(self, top_k: int) -> tuple[float, float]:
        """Shares of target pictures whose name is among their `top_k` nearest of it and the retained ones, and of
        retained ones nearest to their own.

        With fewer names than that the target must come last.
        """
        targets, retain = self.sight.embed_texts(self.pairs.targets), self.sight.embed_texts(self.pairs.retain)
        k = min(top_k, len(retain))
        own = (self.rows[2] * targets[self.numbers[2]]).sum(1, keepdim=True)
        remembered = (self.rows[2] @ retain.T > own).sum(1) < k
        nearest = (self.rows[3] @ torch.cat([retain, targets]).T).argmax(1)
        return float(remembered.float().mean()), float((nearest == self.numbers[3]).float().mean())
