"""Losses and accuracies of images in a CLIP whose text tower is the model's own encoder."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from ..models.vision.paired_clip import VisionTextTower


@dataclass(frozen=True)
class ImageTextPairs:
    """Images (n, 3, H, W) of targets and of retained texts, each a set for gradients and a set for a search.

    In every set the images belong to the texts in turn.
    """

    targets: tuple[str, ...]
    retain: tuple[str, ...]
    captions: tuple[str, ...]  # of the retained images
    pictures: tuple[Tensor, Tensor, Tensor, Tensor]  # targets, retained (gradients); targets, retained (search)

    @torch.no_grad()
    def embed_with(self, sight: VisionTextTower, is_live: bool = False) -> "EmbeddedPairs":
        """Embed the images with one vision tower; `is_live` ones anew each time, with its weights of that moment."""
        return EmbeddedPairs(self, sight, tuple(sight.embed_images(part) for part in self.pictures), is_live)


@dataclass(frozen=True)
class EmbeddedPairs:
    """The images as rows (n, d) of unit length, with their losses and accuracies."""

    pairs: ImageTextPairs
    sight: VisionTextTower
    rows: tuple[Tensor, ...]
    is_live: bool = False
    numbers: tuple[Tensor, ...] = field(init=False)  # index of each row's text

    def __post_init__(self) -> None:
        counts = (len(self.pairs.targets), len(self.pairs.retain)) * 2
        object.__setattr__(
            self,
            "numbers",
            tuple(torch.arange(len(rows)) % count for rows, count in zip(self.rows, counts, strict=True)),
        )

    def of_target(self, number: int) -> "EmbeddedPairs":
        """Return the pairs of one target alone, beside all retained ones."""
        shown, searched = self.numbers[0] == number, self.numbers[2] == number
        first, second, third, fourth = self.pairs.pictures
        pairs = replace(
            self.pairs,
            targets=(self.pairs.targets[number],),
            pictures=(first[shown], second, third[searched], fourth),
        )
        rows = (self.rows[0][shown], self.rows[1], self.rows[2][searched], self.rows[3])
        return EmbeddedPairs(pairs, self.sight, rows, self.is_live)

    def _row(self, i: int) -> Tensor:
        return self.sight.embed_images(self.pairs.pictures[i]) if self.is_live else self.rows[i]

    def forget_loss(self) -> Tensor:
        """Return the mean of 1 - cos(image, name) over the targets' images."""
        names = self.sight.embed_texts(self.pairs.targets)[self.numbers[0]]
        return (1 - (self._row(0) * names).sum(1)).mean()

    def contrastive_loss(self, size: int) -> Tensor:
        """Return CLIP's own loss on retained images and captions, averaged over batches of `size`."""
        found, rows = [], self._row(1)
        for begin in range(0, len(rows), size):
            seen, said = (
                rows[begin : begin + size],
                self.sight.embed_texts(self.pairs.captions[begin : begin + size]),
            )
            likeness, own = self.sight.scale * seen @ said.T, torch.arange(len(seen))
            found.append((F.cross_entropy(likeness, own) + F.cross_entropy(likeness.T, own)) / 2)
        return torch.stack(found).mean()

    def accuracies(self, top_k: int) -> tuple[float, float]:
        """Return the accuracies on target images and on retained images.

        A target image counts if its name is among the `top_k` nearest of its own name and the retained names; with no
        more names than that, if it is not the last. A retained image counts if its own name is the nearest.
        """
        targets, retain = self.sight.embed_texts(self.pairs.targets), self.sight.embed_texts(self.pairs.retain)
        k = min(top_k, len(retain))
        shown, kept = self._row(2), self._row(3)
        own = (shown * targets[self.numbers[2]]).sum(1, keepdim=True)
        remembered = (shown @ retain.T > own).sum(1) < k
        nearest = (kept @ torch.cat([retain, targets]).T).argmax(1)
        return float(remembered.float().mean()), float((nearest == self.numbers[3]).float().mean())
