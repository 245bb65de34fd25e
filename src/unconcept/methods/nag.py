"""Normalised Attention Guidance (NAG): Chen et al., arXiv:2505.21179.

While sampling, moves every cross-attention's output away from its output for the targets' names, with a bounded norm.
"""

from dataclasses import dataclass

import torch

from ..core.errors import require
from ..core.request import Request
from ..edits import SteeringEdit
from ..edits.steering_rules import Guidance
from ..models import ModelView
from .registry import NO_SERVICES, MethodServices, method


@method(
    "nag",
    paper="arXiv:2505.21179",
    families=("sd1", "sd2", "sdxl"),
    mechanism="steering",
    unsupported_reason=(
        "it steers cross-attention; joint attention needs a second text stream, which steering edits do not have"
    ),
)
@dataclass(frozen=True)
class NAG:
    """Moves attention outputs away from the targets' while sampling. Defaults from the authors' code for FLUX."""

    nag_scale: float = 5.0
    """1 + phi, strength of the guidance, >= 1."""
    tau: float = 2.5
    """Largest norm of the output, relative to the unguided one, > 0."""
    a: float = 0.25
    """Share of the guided output in the blend, 0 to 1."""

    def __post_init__(self) -> None:
        require(self.nag_scale >= 1, f"nag: nag_scale must be >= 1, got {self.nag_scale}; 1 has no effect")
        require(self.tau > 0, f"nag: tau must be > 0, got {self.tau}")
        require(0 <= self.a <= 1, f"nag: a must be 0 to 1, got {self.a}")

    @torch.no_grad()
    def erase(self, model: ModelView, request: Request, services: MethodServices = NO_SERVICES) -> SteeringEdit:
        """Z = Z+ + phi (Z+ - Z-), its norm limited to tau |Z+| at each place, then a Z + (1 - a) Z+.

        Several targets are concatenated to one negative text, and only prompts are steered (both inferred, as in NASA).
        SDXL's pooled text still names the concept.
        """
        # Differs: the paper uses L1 norms; its code uses L2, as we do.
        rule = Guidance(
            negative=model.embed(request.targets, at="all").flatten(0, 1),
            null=model.embed([""], at="all")[0],
            phi=self.nag_scale - 1,
            tau=self.tau,
            a=self.a,
        )
        return SteeringEdit(rule, tuple(sorted(model.text_maps())))
