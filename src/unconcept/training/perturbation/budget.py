"""How far a picture may be changed: a named distance, a PSNR, and the weight of going beyond them in a loss."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.errors import require

PictureDistance = Callable[[Tensor, Tensor], Tensor]  # of pictures (b, 3, h, w) in [0, 1], before and after: (b,)
_BISECTIONS = 12
_LEVELS = 255


@dataclass(frozen=True)
class ChangeBudget:
    """The largest change of a picture that counts as unnoticed."""

    distance: PictureDistance
    name: str
    """Name of the distance."""
    hash: str
    """Hash of the distance's network; empty for one without."""
    most: float
    """Largest distance."""
    least_psnr: float = 0.0
    """Smallest PSNR in dB; 0 sets none."""

    def __post_init__(self) -> None:
        require(self.most > 0, f"budget {self.most}: give a distance above 0, such as 0.05; at 0 nothing may change")
        require(self.least_psnr >= 0, f"PSNR {self.least_psnr}: give 0 (no limit) or more decibels, such as 30")

    @property
    def record(self) -> list[object]:
        """What the budget is, as plain data: two of the same record allow the same changes."""
        return [self.name, self.hash, self.most, self.least_psnr]

    def share_used(self, before: Tensor, after: Tensor) -> Tensor:
        """The larger share (b,) of distance and PSNR that a change of pictures (b, 3, h, w) uses: 1 is all of it."""
        used = self.distance(before, after) / self.most
        if not self.least_psnr:
            return used
        error = torch.linalg.vector_norm((after - before).float().flatten(1), dim=1) / before[0].numel() ** 0.5
        return torch.maximum(used, error.to(used) * 10 ** (self.least_psnr / 20))

    @torch.no_grad()
    def fit(self, before: Tensor, after: Tensor) -> Tensor:
        """Move a changed picture (1, 3, h, w) back towards the one before until it keeps the budget in 8 bits.

        `before` has 8 bits itself, so that no change is always within the budget.
        """
        change = after.to(before) - before
        if self._keeps(before, whole := in_8_bits(before + change)):
            return whole
        low, high = 0.0, 1.0
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            low, high = (middle, high) if self._keeps(before, in_8_bits(before + middle * change)) else (low, middle)
        return in_8_bits(before + low * change)

    def _keeps(self, before: Tensor, after: Tensor) -> bool:
        return bool((self.share_used(before, after) <= 1).all())


@dataclass
class DualWeight:
    """The weight of a budget in a loss, which rises while the budget is exceeded and falls while it is not.

    (inferred) The excess counts in shares of the budget, so that one rate serves every distance.
    """

    weight: float = 1.0
    lr: float = 0.01

    def penalty(self, used: Tensor) -> Tensor:
        """The penalty of what lies beyond the budget, by the shares used (b,); then ascends the weight."""
        beyond = used - 1
        found = self.weight * beyond.clamp_min(0).mean()
        self.weight = max(0.0, self.weight + self.lr * float(beyond.detach().mean()))
        return found


def in_8_bits(pictures: Tensor) -> Tensor:
    """Pictures in [0, 1] in steps of 1/255, as a file holds them."""
    return (pictures.clamp(0, 1) * _LEVELS).round() / _LEVELS


def psnr(before: Tensor, after: Tensor) -> Tensor:
    """The peak signal-to-noise ratio (b,) in dB of pictures (b, 3, h, w) in [0, 1]; infinite for equal ones."""
    return -10 * (after - before).double().square().flatten(1).mean(1).log10()
