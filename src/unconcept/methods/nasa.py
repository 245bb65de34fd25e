"""Negative-Away Steer Attention (NASA): Nguyen et al., ICCV 2025, arXiv:2412.02687 (its training-free form, NASA-I).

While sampling, subtracts from every cross-attention's output a share of its output for the targets' names.
"""

from dataclasses import dataclass

import torch

from ..core.errors import require
from ..core.request import Request
from ..edits import SteeringEdit
from ..edits.steering_rules import Subtraction
from ..models import ModelView
from .registry import NO_SERVICES, MethodServices, method


@method(
    "nasa",
    paper="arXiv:2412.02687",
    families=("sd1", "sd2", "sdxl"),
    mechanism="steering",
    unsupported_reason=(
        "the authors' later work found it unstable in joint attention, and the paper does not define it there"
    ),
)
@dataclass(frozen=True)
class NASA:
    """Subtracts the targets' attention output while sampling. Default from the paper's SD 1.5 model."""

    alpha: float = 0.1
    """Share that is subtracted, 0 to 1: 0.1 for SD 1.5, 0.2 for SD 2.1, 0.5 for PixArt-alpha."""
    compensate: bool = False
    """Divide by 1 - alpha: prompts without the target keep the size of their outputs (inferred)."""

    def __post_init__(self) -> None:
        require(0 <= self.alpha <= 1, f"nasa: alpha must be 0 to 1, got {self.alpha}")
        require(
            self.alpha < 1 or not self.compensate,
            "nasa: alpha = 1 cannot be compensated: lower it, or set compensate = false",
        )

    @torch.no_grad()
    def erase(self, model: ModelView, request: Request, services: MethodServices = NO_SERVICES) -> SteeringEdit:
        """Z = Z+ - alpha Z-, where Z- is the attention over the targets' token states (n l, d), before the output map.

        Several targets are concatenated to one negative text, so that each place subtracts mostly the target that it
        resembles most (inferred). Only prompts are steered, not the empty text that guidance starts from (inferred).
        Anchors and retained texts are not used. SDXL's pooled text still names the concept.
        """
        rule = Subtraction(
            negative=model.embed(request.targets, at="all").flatten(0, 1),
            null=model.embed([""], at="all")[0],
            alpha=self.alpha,
            compensate=self.compensate,
        )
        return SteeringEdit(rule, tuple(sorted(model.text_maps())))
