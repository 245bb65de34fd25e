"""Which weights a concept is in: those whose gradients are large under every one of several losses (ANT, SalUn)."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...core.errors import SettingsError, require
from ..gradient_transforms import GradientList, largest_share_mask
from ..loop import Descent, StepLoss
from ..session import TrainingProgress, current_session


@dataclass
class GradientSum:
    """Sums the gradients of a descent; unless it `moves`, no step is taken."""

    moves: bool = False
    sums: list[Tensor] = field(default_factory=list)

    def gradient(self, step: int, gradients: GradientList, params: Sequence[Tensor]) -> GradientList | None:
        self.sums = [a + g for a, g in zip(self.sums, gradients, strict=True)] if self.sums else list(gradients)
        return gradients if self.moves else None

    def after_step(self, params: Sequence[Tensor]) -> None:
        """Nothing to put right."""


@dataclass(frozen=True)
class SaliencyPlan:
    """How gradient maps are made of losses, and what is kept of them."""

    steps: int
    """Gradients that are summed to one map."""
    share: float
    """Share of each tensor's entries that a map keeps: those whose sum is largest."""
    lr: float = 0.0
    """Of Adam's steps between the gradients of a map; 0 leaves the weights where they begin."""
    is_smallest: bool = False
    """Keep the entries whose sum is smallest."""
    name: str = "saliency"

    def __post_init__(self) -> None:
        require(self.steps > 0, f"{self.name}: a map needs at least one gradient, got {self.steps}", SettingsError)
        message = f"{self.name}: share must be above 0 and at most 1, got {self.share}"
        require(0 < self.share <= 1, message, SettingsError)


def intersect_saliency(
    params: Sequence[Tensor], start: Sequence[Tensor], losses: Sequence[StepLoss], plan: SaliencyPlan, seed: int
) -> list[Tensor]:
    """Return the entries of each parameter that the maps of all losses keep, as booleans in its shape.

    Call it while the model is the student. Each map begins at `start`, where the parameters are left. Raises
    `SettingsError` if no entry is left, since every further map leaves fewer.
    """
    masks = [torch.ones_like(param, dtype=torch.bool) for param in params]
    for number, loss in enumerate(losses):
        found = GradientSum(moves=plan.lr > 0)
        descent = Descent(params, plan.lr, seed=seed + number, transforms=[found])
        descent.run(loss, plan.steps, _teller(f"{plan.name}-{number + 1}", plan.steps, descent))
        for mask, total in zip(masks, found.sums, strict=bool(found.sums)):  # A rehearsal may take no step.
            size = total.abs()
            mask &= largest_share_mask(-size, plan.share) if plan.is_smallest else _largest(size, plan.share)
        with torch.no_grad():
            for param, own in zip(params, start, strict=True):
                param.copy_(own)
    left = any(bool(mask.any()) for mask in masks)
    message = f"{plan.name}: {len(losses)} maps have no weight in common: make fewer, or keep a larger share than "
    require(left, f"{message}{plan.share}", SettingsError)
    return masks


def _largest(sizes: Tensor, share: float) -> Tensor:
    """Keep the largest share of a tensor, but no entry without a gradient."""
    return largest_share_mask(sizes, share) & (sizes > 0)


def _teller(name: str, steps: int, descent: Descent) -> Callable[[int], None]:
    """Return what tells the session of each gradient of a map."""
    begun = time.monotonic()

    def tell(done: int) -> None:
        left = (time.monotonic() - begun) / done * (steps - done)
        current_session().on_progress(TrainingProgress(name, done, steps, descent.losses[-1], left))

    return tell
