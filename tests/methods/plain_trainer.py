"""What trainings written out in full have in common: a whole second model, and changes that are the edit's."""

import copy
from collections.abc import Iterable

from torch import Tensor

from unconcept.edits import DenseEdit
from unconcept.models.views import PipelineView


def second_model(view: PipelineView) -> PipelineView:
    """The model with a denoiser of its own."""
    other = copy.copy(view)
    other.checkpoint = copy.copy(view.checkpoint)
    other.checkpoint.pipeline = copy.copy(view.pipeline)
    part = "unet" if hasattr(view.pipeline, "unet") else "transformer"
    setattr(other.checkpoint.pipeline, part, copy.deepcopy(getattr(view.pipeline, part)))
    return other


def require_same_deltas(edit: DenseEdit, deltas: Iterable[Tensor], share: float = 1e-8) -> None:
    """In one number: Adam turns the last bits of a gradient that is next to nothing into a whole step."""
    pairs = list(zip(edit.deltas.values(), deltas, strict=True))
    apart = sum((ours - theirs).square().sum() for ours, theirs in pairs)
    assert apart < share * sum(theirs.square().sum() for _, theirs in pairs)
