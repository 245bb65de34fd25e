"""Safe Latent Diffusion: Schramowski et al., CVPR 2023, arXiv:2211.05105. A baseline of every table.

While sampling, a third prediction, under the targets' names, gates how far guidance is led away from them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from ..core.errors import require
from ..core.request import Request
from ..edits.guidance import GuidanceEdit, SafeGuidance, negative_text
from ..models import ModelView
from ..models.diffusion.sampler import require_classifier_free_guidance
from .registry import NO_SERVICES, MethodServices, Unreached, method

SafetyLevel = Literal["weak", "medium", "strong", "max"]
# Warm-up of 15, 10, 7 and 0 of the paper's 50 steps, then s_S, lambda, s_m and beta.
_LEVELS: Mapping[SafetyLevel, SafeGuidance] = {
    "weak": SafeGuidance(0.3, 200, 0.0, 0.0, 0.0),
    "medium": SafeGuidance(0.2, 1000, 0.01, 0.3, 0.4),
    "strong": SafeGuidance(0.14, 2000, 0.025, 0.5, 0.7),
    "max": SafeGuidance(0.0, 5000, 1.0, 0.5, 0.7),
}


@method(
    "sld",
    paper="arXiv:2211.05105",
    families=("sd1", "sd2", "sdxl", "sd3", "flux", "chroma", "pixart"),
    mechanism="steering",
)
@dataclass(frozen=True)
class SLD:
    """Guides every prompt away from the targets, where and as far as its prediction resembles theirs.

    Levels are those of the authors' model card; diffusers' weak level has a guidance_scale of 20 instead of 200.
    """

    unreached: ClassVar[Unreached] = "nothing"
    needs_guidance: ClassVar[bool] = True

    level: SafetyLevel = "medium"
    """The paper's four strengths; a number below stands in place of its level's."""
    warmup: float | None = None
    """delta as a share of the sampler's calls, 0 to 1: 0.2 for 10 of the paper's 50."""
    guidance_scale: float | None = None
    """s_S, >= 0: how soon a difference of the two predictions opens the gate wholly."""
    threshold: float | None = None
    """lambda, in units of noise predictions: elements whose signed difference is not below it are left alone."""
    momentum_scale: float | None = None
    """s_m, >= 0: weight of the momentum."""
    mom_beta: float | None = None
    """beta, 0 to 1: share of the momentum that a step keeps."""
    prefix: str = ""
    """Words before the targets' names; diffusers writes "an image showing "."""

    def __post_init__(self) -> None:
        rule = self._rule()
        require(0 <= rule.warmup <= 1, f"sld: warmup must be 0 to 1, got {rule.warmup}")
        require(rule.guidance_scale >= 0, f"sld: guidance_scale must be >= 0, got {rule.guidance_scale}")
        require(rule.momentum_scale >= 0, f"sld: momentum_scale must be >= 0, got {rule.momentum_scale}")
        require(0 <= rule.momentum_beta <= 1, f"sld: mom_beta must be 0 to 1, got {rule.momentum_beta}")

    def erase(self, model: ModelView, request: Request, services: MethodServices = NO_SERVICES) -> GuidanceEdit:
        """e = e_0 + g (e_p - e_0 - gamma), gamma = mu (e_S - e_0) + s_m nu from step delta on.

        mu = min(1, s_S |e_p - e_S|) where e_p - e_S < lambda, else 0: the gate has a sign. S is one text, the names of
        all targets that contain no other one, with commas between them. Anchors and retained texts are not used.
        Differs: the authors' code drops the term at a guidance scale of 1; here that is refused.
        """
        require_classifier_free_guidance(model, "sld")
        return GuidanceEdit(
            negative_text(model, request.targets, self.prefix), tuple(sorted(model.text_maps())), self._rule()
        )

    def _rule(self) -> SafeGuidance:
        own = _LEVELS[self.level]

        def chosen(given: float | None, usual: float) -> float:
            return usual if given is None else given

        return SafeGuidance(
            chosen(self.warmup, own.warmup),
            chosen(self.guidance_scale, own.guidance_scale),
            chosen(self.threshold, own.threshold),
            chosen(self.momentum_scale, own.momentum_scale),
            chosen(self.mom_beta, own.momentum_beta),
        )
