"""Gaussian blur as a control: what a worse picture alone does, at the strongest that the budget allows."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..core.errors import require
from ..models.families import FAMILIES
from .registry import ProtectionCase, protection

_WIDEST = 8.0  # pixels
_BISECTIONS = 12


@protection("blur", paper="control", families=FAMILIES, role="control", reads_model=False)
@dataclass(frozen=True)
class BlurControl:
    """Blurs the picture."""

    sigma: float | None = None
    """Standard deviation in pixels; None: the largest that keeps the budget, at most 8."""

    def __post_init__(self) -> None:
        message = f"blur: sigma must be > 0 to {_WIDEST:g}, got {self.sigma}"
        require(self.sigma is None or 0 < self.sigma <= _WIDEST, message)

    def protect(self, case: ProtectionCase) -> Tensor:
        """Bisect the deviation, which the distance rises with."""
        if self.sigma is not None:
            return blurred(case.picture, self.sigma)
        low, high = 0.0, _WIDEST
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            used = case.budget.share_used(case.picture[None], blurred(case.picture, middle)[None])
            low, high = (middle, high) if float(used) <= 1 else (low, middle)
        return blurred(case.picture, low) if low else case.picture


def blurred(picture: Tensor, sigma: float) -> Tensor:
    """The picture (3, h, w) after a Gaussian blur, with its edges repeated."""
    reach = max(1, round(3 * sigma))
    weights = torch.exp(-torch.arange(-reach, reach + 1).float().square() / (2 * sigma**2))
    row = (weights / weights.sum()).view(1, 1, 1, -1).expand(3, 1, 1, -1)
    wide = F.pad(picture[None], (reach, reach, reach, reach), mode="replicate")
    return F.conv2d(F.conv2d(wide, row, groups=3), row.transpose(2, 3), groups=3)[0].clamp(0, 1)
