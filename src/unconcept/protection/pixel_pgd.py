"""AdvDM: Liang et al., ICML 2023, arXiv:2302.04578. Projected ascent of the model's loss on pixels, the control of the
same budget for protections that move latents.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.errors import require
from ..models.families import FAMILIES
from ..training import Descent
from ..training.gradient_transforms import GradientList
from .registry import ProtectionCase, protection


@protection("pixel-pgd", paper="arXiv:2302.04578", families=FAMILIES, role="control")
@dataclass(frozen=True)
class PixelPgd:
    """Raises the model's loss on the picture by steps of equal size in every pixel, within the same budget."""

    iterations: int = 100
    """Steps of ascent."""
    step_size: float = 1 / 255
    """Change of every pixel in a step (inferred)."""
    epsilon: float = 16 / 255
    """Largest change of a pixel, beside the budget; 1 leaves the budget alone."""
    samples: int = 4
    """Timesteps and noises of the loss in a step."""

    def __post_init__(self) -> None:
        for name in ("iterations", "samples"):
            require(getattr(self, name) > 0, f"pixel-pgd: {name} must be > 0, got {getattr(self, name)}")
        message = f"pixel-pgd: step_size and epsilon must be > 0 to 1, got {self.step_size} and {self.epsilon}"
        require(0 < self.step_size <= 1 and 0 < self.epsilon <= 1, message)

    def protect(self, case: ProtectionCase) -> Tensor:
        """x' <- x + P(x' - x + step sign(dL/dx')), P the epsilon ball, then the budget.

        Differs: the change is shrunk by the share of the budget that it uses, which is within it for any distance that
        is convex in the change.
        """
        picture = case.picture[None].to(case.model.device)
        loss, change = case.learning_loss(self.samples), torch.zeros_like(picture).requires_grad_()
        steps = _SignSteps(self, case, picture)

        def step_loss(step: int, rng: torch.Generator) -> Tensor:
            return -loss((picture + change).clamp(0, 1), rng)

        Descent([change], self.step_size, "sgd", seed=case.seed, transforms=[steps]).run(step_loss, self.iterations)
        return (picture + change.detach()).clamp(0, 1)[0]


@dataclass(frozen=True)
class _SignSteps:
    """Steps by the gradient's sign, and the projection after each."""

    settings: PixelPgd
    case: ProtectionCase
    picture: Tensor

    def gradient(self, step: int, gradients: GradientList, params: Sequence[Tensor]) -> GradientList:
        return [gradient.sign() for gradient in gradients]

    @torch.no_grad()
    def after_step(self, params: Sequence[Tensor]) -> None:
        (change,) = params
        change.clamp_(-self.settings.epsilon, self.settings.epsilon)
        changed = (self.picture + change).clamp(0, 1)
        used = float(self.case.budget.share_used(self.picture.cpu(), changed.cpu()))
        change.copy_((changed - self.picture) / max(1.0, used))
