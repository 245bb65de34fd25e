"""Negative prompt: the targets' names in place of the empty text that guidance leads away from. A baseline of every
table; Safe Latent Diffusion (arXiv:2211.05105) compares with it.
"""

from dataclasses import dataclass
from typing import ClassVar

from ..core.request import Request
from ..edits.guidance import GuidanceEdit, NegativeText, negative_text
from ..models import ModelView
from ..models.diffusion.sampler import require_classifier_free_guidance
from .registry import NO_SERVICES, MethodServices, Unreached, method


@method(
    "negative-prompt",
    paper="arXiv:2211.05105",
    families=("sd1", "sd2", "sdxl", "sd3", "flux", "chroma", "pixart"),
    mechanism="steering",
)
@dataclass(frozen=True)
class NegativePrompt:
    """Gives every prompt, unrelated ones too, the targets' names as its negative prompt."""

    unreached: ClassVar[Unreached] = "nothing"
    needs_guidance: ClassVar[bool] = True

    prefix: str = ""
    """Words before the targets' names."""

    def erase(self, model: ModelView, request: Request, services: MethodServices = NO_SERVICES) -> GuidanceEdit:
        """e = e_S + g (e_p - e_S) with the sampler's g; S is one text, the names that contain no other
        one with commas between them. Anchors and retained texts are not used.
        """
        require_classifier_free_guidance(model, "negative-prompt")
        text = negative_text(model, request.targets, self.prefix)
        return GuidanceEdit(text, tuple(sorted(model.text_maps())), NegativeText())
