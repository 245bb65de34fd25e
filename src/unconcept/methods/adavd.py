"""Adaptive Value Decomposer (AdaVD): Wang et al., CVPR 2025, arXiv:2412.06143.

While sampling, removes from the value of every token of the prompt its component along the target's value, the more,
the more alike the two are.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from ..core.errors import require
from ..core.request import Request
from ..edits import SteeringEdit
from ..edits.steering_rules import Decomposition, JointDecomposition, SteeringRule
from ..models import ModelView
from ..models.text.state_rows import content_positions
from .registry import NO_SERVICES, MethodServices, Promise, Unreached, method


@method(
    "adavd",
    paper="arXiv:2412.06143",
    families=("sd1", "sd2", "sdxl", "sd3", "flux"),
    mechanism="steering",
    unsupported_reason="its cross-attention masks padding, which steered attention does not do",
)
@dataclass(frozen=True)
class AdaVD:
    """Steers the values that attention reads of the text away from the targets' while sampling.

    Defaults from the authors' demonstration notebook.
    """

    promises: ClassVar[tuple[Promise, ...]] = ("changes", "moves-targets")
    unreached: ClassVar[Unreached] = "any pooled text"

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
        - eps))). Anchors and retained texts are not used. In SD3 and FLUX values depend on step and picture: v are the
        prompt's tokens in each joint attention, FLUX's single blocks included, and v_t is in the target's own text
        stream beside the same picture, in SD3 of CLIP's and of T5's rows. T5 has no start token, so all its positions
        count (all inferred: the paper shows SD3 and says nothing). The pooled text of SDXL, SD3 and FLUX still names
        the concept.
        """
        # Differs: the authors also shift the unconditional half by the result for the conditional half of the batch.
        # Here rows are independent, and the empty text is left unchanged.
        # Differs: with several targets theirs orthogonalises against the raw ones, exact for two; see
        # `linalg.gated_projection`.
        # Differs: theirs skips a last step at timestep 0.
        # Differs: SDXL's unconditional half has zeros as its text; we use the empty text's own states, so that eps
        # keeps its meaning.
        null = model.embed([""], at="all")[0]
        shift = {name: getattr(self, name) for name in ("s", "p", "eps", "token_sim", "joint_cfg")}
        rule: SteeringRule
        if model.spec.attention == "joint":
            spans = [content_positions(model, text) for text in request.targets]
            last = torch.tensor([rows[-1] for own in spans for rows in own]).view(len(spans), -1)
            states = model.embed(request.targets, at="all").flatten(0, 1)
            rule = JointDecomposition(states, last, null, spans[0][0].start, **shift)
        else:
            rule = Decomposition(model.embed(request.targets), null, **shift)
        return SteeringEdit(rule, tuple(sorted(model.text_maps())))
