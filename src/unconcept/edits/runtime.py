"""Edits that run beside the model and change no weight: what they are bound to, and what of them a weight can hold."""

from ..core.errors import EditError
from .adapter import AdapterEdit
from .base import Edit
from .gated import GatedEdit
from .steering import SteeringEdit

RuntimeEdit = SteeringEdit | AdapterEdit | GatedEdit
_NO_WEIGHT_REASONS = {
    SteeringEdit: (
        "the edit changes no weight, it steers while sampling: there is nothing to bake or export; draw with `sample"
        " --edit`"
    ),
    AdapterEdit: (
        "the edit changes no weight, its erasers are networks of their own: there is nothing to bake or export; draw"
        " with `sample --edit`"
    ),
    GatedEdit: (
        "the edit weighs itself by the prompt, and in a weight or a LoRA that gating is lost: "
        "draw with `sample --edit`, or write it at full weight for every prompt with --static"
    ),
}


def bound_parameters(edit: Edit) -> tuple[str, ...]:
    """Full names of the parameters an edit is bound to: those it changes, or those beside which it runs."""
    return edit.maps if isinstance(edit, RuntimeEdit) else edit.names


def require_weight_edit(edit: Edit) -> None:
    """`EditError` unless the edit is a change of weights."""
    if isinstance(edit, RuntimeEdit):
        raise EditError(_NO_WEIGHT_REASONS[type(edit)])


def static_edit(edit: Edit) -> Edit:
    """An edit that weighs itself by the prompt as the change of weights it is at full weight; any other as it is."""
    return edit.static() if isinstance(edit, GatedEdit) else edit
