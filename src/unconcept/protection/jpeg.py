"""JPEG compression as a control: what any upload does to a picture, at the strongest that the budget allows."""

from dataclasses import dataclass
from io import BytesIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..core.errors import require
from ..models.families import FAMILIES
from .registry import ProtectionCase, protection

_WORST, _BEST = 1, 95  # Pillow's range


@protection("jpeg", paper="control", families=FAMILIES, role="control", reads_model=False)
@dataclass(frozen=True)
class JpegControl:
    """Compresses the picture as JPEG."""

    quality: int | None = None
    """1 to 95; None: the worst that keeps the budget."""

    def __post_init__(self) -> None:
        message = f"jpeg: quality must be {_WORST} to {_BEST}, got {self.quality}"
        require(self.quality is None or _WORST <= self.quality <= _BEST, message)

    def protect(self, case: ProtectionCase) -> Tensor:
        """Bisect the quality, which the distance falls with."""
        if self.quality is not None:
            return compress(case.picture, self.quality)
        low, high = _WORST, _BEST
        while low < high:
            middle = (low + high) // 2
            used = case.budget.share_used(case.picture[None], compress(case.picture, middle)[None])
            low, high = (low, middle) if float(used) <= 1 else (middle + 1, high)
        return compress(case.picture, low)


def compress(picture: Tensor, quality: int) -> Tensor:
    """The picture (3, h, w) after JPEG of this quality."""
    buffer = BytesIO()
    pixels = (picture * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    found = torch.from_numpy(np.array(Image.open(BytesIO(buffer.getvalue())).convert("RGB")))
    return found.permute(2, 0, 1).float() / 255
