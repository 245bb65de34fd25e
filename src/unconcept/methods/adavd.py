"""Adaptive Value Decomposer (AdaVD): Wang et al., CVPR 2025, arXiv:2412.06143.

While sampling, removes from every token's cross-attention value its component along the target's value, the more, the
more alike the two are.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from ..core.errors import require
from ..core.request import Request
from ..edits import SteeringEdit
from ..edits.steering_rules import Decomposition
from ..models import ModelView
from .registry import NO_SERVICES, MethodServices, Promise, method


@method(
    "adavd",
    paper="arXiv:2412.06143",
    families=("sd1", "sd2", "sdxl"),
    mechanism="steering",
    unsupported_reason="the text's values depend on timestep and image there; the paper shows SD3 but does not say how",
)
@dataclass(frozen=True)
class AdaVD:
    """Steers cross-attention values away from the targets' while sampling.

    Defaults from the authors' demonstration notebook.
    """

    promises: ClassVar[tuple[Promise, ...]] = ("changes", "moves-targets")

    token_sim: bool = True
    """Scale the shift by likeness; else make every token's value orthogonal to the targets'."""
    s: float = 2.0
    """Largest shift, >= 0: 1 removes the component, 2 reverses it."""
    p: float = 100.0
    """Slope of the shift over the cosine, > 0."""
    eps: float = 0.93
    """Cosine at which the shift is s / 2."""
    joint_cfg: bool = True
    """Append the empty text's value to both before measuring cosines (code), which raises them; False measures them
    alone (paper) and needs a lower eps."""

    def __post_init__(self) -> None:
        require(self.s >= 0, f"adavd: s must be >= 0, got {self.s}")
        require(self.p > 0, f"adavd: p must be > 0, got {self.p}; it is the slope of the shift")
        require(-1 <= self.eps <= 1, f"adavd: eps must be a cosine, -1 to 1, got {self.eps}")

    @torch.no_grad()
    def erase(self, model: ModelView, request: Request, services: MethodServices = NO_SERVICES) -> SteeringEdit:
        """Store the last subject token's state of each target, f (n, d); its value v_t = W_v f is computed in sampling.

        At every position but the first: v' = v - delta <v_t, v> / <v_t, v_t> v_t, delta = s / (1 + exp(-p (cos(v_t, v)
        - eps))). Anchors and retained texts are not used. SDXL's pooled text still names the concept.
        """
        # Differs: the authors also shift the unconditional half by the result for the conditional half of the batch.
        # Here rows are independent, and the empty text is left unchanged.
        # Differs: with several targets theirs orthogonalises against the raw ones, exact for two; see
        # `linalg.gated_projection`.
        # Differs: theirs skips a last step at timestep 0.
        # Differs: SDXL's unconditional half has zeros as its text; we use the empty text's own states, so that eps
        # keeps its meaning.
        rule = Decomposition(
            targets=model.embed(request.targets),
            null=model.embed([""], at="all")[0],
            s=self.s,
            p=self.p,
            eps=self.eps,
            token_sim=self.token_sim,
            joint_cfg=self.joint_cfg,
        )
        return SteeringEdit(rule, tuple(sorted(model.text_maps())))
