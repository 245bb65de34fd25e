"""A method."""

from dataclasses import dataclass

import torch

from unconcept.core import Request
from unconcept.edits import TextMapEdit
from unconcept.methods import NO_SERVICES, MethodServices, method
from unconcept.models import ModelView

from .rows import dual_rows


@method("toy-turn", paper="none", families=("sd1", "sd2"), mechanism="closed-form")
@dataclass(frozen=True)
class ToyTurn:
    """Turns each target's text into its anchor's."""

    strength: float = 1.0
    """Share of the way."""

    @torch.no_grad()
    def erase(self, model: ModelView, request: Request, services: MethodServices = NO_SERVICES) -> TextMapEdit:
        """One map on the text for all layers."""
        c_e, c_a = model.embed(request.targets), model.embed(request.anchors)
        return TextMapEdit(self.strength * (c_a - c_e), dual_rows(c_e), tuple(sorted(model.text_maps())))
