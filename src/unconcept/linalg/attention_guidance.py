"""Guides attention outputs away from those of a negative text.

Rows are positions of the picture, and each row is changed on its own.
"""

import torch
from torch import Tensor


def subtract_negative(plain: Tensor, negative: Tensor, alpha: float, compensate: bool) -> Tensor:
    """NASA: Z+ - alpha Z-, divided by 1 - alpha if `compensate` is set.

    With the division, a text that is its own negative stays unchanged.
    """
    found = plain - alpha * negative
    return found / (1 - alpha) if compensate else found


def normalised_guidance(plain: Tensor, negative: Tensor, phi: float, tau: float, a: float) -> Tensor:
    """NAG: Z+ + phi (Z+ - Z-), with each row at most tau |Z+| long, then blended a : 1 - a with Z+."""
    wide = torch.promote_types(plain.dtype, torch.float32)
    own = plain.to(wide)
    led = own + phi * (own - negative.to(wide))
    tiny = torch.finfo(wide).tiny ** 0.5
    ratio = led.norm(dim=-1, keepdim=True).clamp_min(tiny) / own.norm(dim=-1, keepdim=True).clamp_min(tiny)
    led = led * (ratio.clamp_max(tau) / ratio)
    blended: Tensor = (a * led + (1 - a) * own).to(plain.dtype)
    return blended
