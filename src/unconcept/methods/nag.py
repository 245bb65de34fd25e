"""Normalised Attention Guidance (NAG): Chen et al., arXiv:2505.21179.

While sampling, moves every attention's output away from its output for the targets' names, with a bounded norm.
"""

from collections.abc import Sequence
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
    families=("sd1", "sd2", "sdxl", "sd3", "flux"),
    mechanism="steering",
    unsupported_reason="its cross-attention masks padding, which steered attention does not do",
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
        In joint attention the picture's rows are steered, and a negative text has a text stream of its own, as in the
        authors' code for FLUX. (inferred) Several targets are joined there by commas into as few texts as the encoders
        hold, of which Z- is the mean. The pooled text of SDXL, SD3 and FLUX still names the concept.
        """
        # Differs: the paper uses L1 norms; its code uses L2, as we do.
        texts = joined_texts(model, request.targets) if model.spec.attention == "joint" else request.targets
        rule = Guidance(
            negative=model.embed(texts, at="all").flatten(0, 1),
            null=model.embed([""], at="all")[0],
            phi=self.nag_scale - 1,
            tau=self.tau,
            a=self.a,
        )
        return SteeringEdit(rule, tuple(sorted(model.text_maps())))


def joined_texts(model: ModelView, texts: Sequence[str]) -> tuple[str, ...]:
    """Join texts by commas, in their order, into as few as every encoder holds."""
    found: list[str] = []
    for text in texts:
        longer = f"{found[-1]}, {text}" if found else text
        if found and all(tokenizer.can_hold(longer) for tokenizer in model.tokenizers):
            found[-1] = longer
        else:
            found.append(text)
    return tuple(found)
