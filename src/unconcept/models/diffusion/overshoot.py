"""Overshooting samplers of flow models: AMO (Hu et al., CVPR 2025, arXiv:2411.19415).

A step goes past its goal along the flow and comes back by adding noise: Euler's step and one of Langevin's, with no
further network call. AMO goes further where a picture attends to the words that it shall write.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from ...core.errors import require
from ..hooks.attention_maps import grid_sides, record_attention, text_attentions
from ..model_view import ModelView
from .schedulers import SchedulerStepper

OVERSHOOT_SAMPLERS = ("overshoot", "amo")
OVERSHOOT = 2.0  # c of the authors' run.py


@dataclass
class OvershootStepper(SchedulerStepper):
    """Overshoots each Euler step by c times its length, or by as much of that as the mask says.

    Differs: prompts without a word to write have the mask 0, and with it Euler's steps. (inferred) Attention is the
    mean of joint blocks, heads and tokens, rescaled to 0 to 1 in each picture; the authors' extraction was not read.
    """

    c: float = OVERSHOOT
    is_masked: bool = False
    """Whether the mask is the attention to the words to write (AMO); else the whole picture overshoots alike."""
    mask: Tensor | float = field(default=1.0)
    """(b, 1, h, w), 0 to 1, of the last prediction."""

    @contextmanager
    def observe(self, model: ModelView, latents: Tensor, focus: Tensor | None) -> Iterator[None]:
        """Record the attention of a prediction for latents (b, c, h, w) to the text states in `focus` (b, l) bool."""
        if not self.is_masked:
            yield
            return
        require(focus is not None, "sampler 'amo' needs the words to write: sample from texts, or use 'overshoot'")
        assert focus is not None
        tokens = focus.any(0).nonzero()[:, 0].tolist()
        with record_attention(model, text_attentions(model), tokens) as kept:
            yield
        sides = (latents.shape[2], latents.shape[3])
        self.mask = attention_overshoot([maps for (maps,) in kept.values()], focus[:, tokens], sides)

    def step(self, x: Tensor, prediction: Tensor, k: int, generators: Sequence[torch.Generator] | None) -> Tensor:
        """x at the next level, in float32 or wider; time is 1 - sigma, 0 for noise and 1 for a picture."""
        require(generators is not None, "an overshooting step needs generators: leave residuals out")
        wide = torch.promote_types(x.dtype, torch.float32)
        now, following = (1 - self.scheduler.sigmas[i].to(x.device, wide) for i in (k, k + 1))
        mask = self.mask.to(x.device, wide) if isinstance(self.mask, Tensor) else self.mask
        over = torch.clamp(following + self.c * mask * (following - now), max=1.0)
        ahead = x.to(wide) - (over - now) * prediction.to(wide)
        share = following / over
        spread = ((1 - following) ** 2 - (share * (1 - over)) ** 2).clamp(min=0).sqrt()
        noise = torch.stack([torch.randn(x.shape[1:], generator=rng) for rng in generators or ()])
        found: Tensor = share * ahead + spread * noise.to(x.device, wide)
        return found.to(prediction.dtype)


def attention_overshoot(maps: Sequence[Tensor], focus: Tensor, sides: tuple[int, int]) -> Tensor:
    """The mask (b, 1, h, w) of attentions (2b or b, heads, p, n) to n tokens, of which `focus` (b, n) says whose.

    A row without a token has the mask 0.
    """
    weights = focus.to(maps[0])
    count = weights.sum(1).clamp(min=1)
    rows = torch.stack([each[-len(focus) :].mean(1) for each in maps]).mean(0)  # (b, p, n)
    found = (rows * weights[:, None]).sum(2) / count[:, None]
    low, high = found.amin(1, keepdim=True), found.amax(1, keepdim=True)
    found = (found - low) / (high - low).clamp(min=torch.finfo(found.dtype).tiny)
    grid = found.unflatten(1, (1, *grid_sides(sides, found.shape[1])))
    on = focus.any(1)[:, None, None, None].to(found)
    spread: Tensor = F.interpolate(grid, sides, mode="bilinear")
    return spread * on
