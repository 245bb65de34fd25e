"""The training that made an edit, to be run again by an attack that goes against it."""

from collections.abc import Callable

from ...attacks import AttackInfo, why_out_of_reach
from ...core.request import Request
from ...core.settings import build_settings
from ...edits import DenseEdit, Edit
from ...methods import Method, MethodServices, methods
from ...models import ModelView
from ..worlds import world_of


def why_not_applicable(info: AttackInfo, edit: Edit, model: ModelView) -> str | None:
    """Say by what mechanism an attack is n/a on an edit; None if it acts on it."""
    if info.lever != "own training":
        return why_out_of_reach(info, edit, model)
    reason = _why_no_training(edit)
    return reason and f"{info.name} climbs the loss of the edit's own training; {reason}"


def own_training(edit: Edit | None, model: ModelView) -> Callable[[], Edit] | None:
    """Return the training of an edit, to be run on the model as it then computes; None if the edit has none."""
    if edit is None or edit.origin is None or _why_no_training(edit):
        return None
    origin, info = edit.origin, methods[edit.origin.method]
    # Regularisers are no part of the loss that is climbed.
    settings = {name: value for name, value in origin.settings.items() if name not in ("regularisers", "weights")}
    solver: Method = build_settings(info.settings, settings, f"{info.name} setting")
    request = Request(origin.targets, origin.anchors, origin.retain, kind=origin.kind)
    services = MethodServices(vision_towers=world_of(model.name).vision_towers, weights=origin.settings.get("weights"))
    return lambda: solver.erase(model, request, services)


def _why_no_training(edit: Edit) -> str | None:
    """Say why an edit has no training of the model's own weights that could be run again; None if it has one."""
    origin = edit.origin
    if origin is None or origin.method not in methods:
        return f"{'what made it' if origin is None else origin.method} is no method of this library"
    info = methods[origin.method]
    if info.mechanism != "trained":
        return f"{info.name} has none: its mechanism is {info.mechanism}"
    if not isinstance(edit, DenseEdit):
        return f"{info.name} trains networks that begin anew beside the weights: the edit {edit.describe()}"
    asked = sorted({*info.uses} - {"vision_towers"})
    return f"{info.name} asks for what an attacker has not: {', '.join(asked)}" if asked else None
