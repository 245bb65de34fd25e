"""The weights of a model that an edit is bound to: found, checked, and changed for a while."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn

from ..core.errors import EditError, ModelError, require
from ..core.hashing import hash_tensors
from ..models import ModelView
from ..models.hooks.parameters import with_values
from ..models.module_view import AnyModel
from ..models.pipeline_checks import is_plain_weight
from ..models.text.text_side import text_side
from ..worlds.registry import embedded_world, outdated_note
from .base import Edit, EditOrigin


@contextmanager
def add_to_weights(edit: Edit, model: AnyModel) -> Iterator[None]:
    """Inside the block, each named parameter is its own value plus the edit's delta; nested edits add up."""
    fixed = getattr(model, "fixed", "")
    if fixed:
        refused = "and the edit changes weights: give the plain model, or an edit that needs none"
        raise EditError(f"{model.name}: {fixed}, {refused}")
    own = require_same_base(edit.origin, model, edit.names)
    live = live_parameters(model, edit.names)
    values = {name: weight_sum(live[name], edit.delta(name, own[name].to(live[name].device))) for name in edit.names}
    with with_values(live, values, model.original_weights):
        yield


def require_model(model: AnyModel) -> None:
    """Raise `ModelError` for what is no opened model, such as a diffusers pipeline."""
    message = f"a {type(model).__name__} is no opened model: open it with open_model, or use the edit's apply_to"
    require(hasattr(model, "reference"), message, ModelError)


def weight_sum(weight: Tensor, delta: Tensor) -> Tensor:
    """Return weight + delta, computed in float32 or wider and cast to the weight's dtype once."""
    require(
        weight.shape == delta.shape,
        f"the edit's shape {tuple(delta.shape)} is not the model's {tuple(weight.shape)}: apply it to its own base",
        EditError,
    )
    wide = torch.promote_types(weight.dtype, delta.dtype)
    delta = delta.to(weight.device, wide)
    # Keep the bits where delta is 0: -0.0 + 0.0 would be 0.0.
    return torch.where(delta == 0, weight, (weight.to(wide) + delta).to(weight.dtype))


def live_parameters(model: AnyModel, names: tuple[str, ...]) -> dict[str, Tensor]:
    """Return the parameters that the model now computes with, by full name."""
    require_model(model)
    found: dict[str, Tensor] = {}
    for name in names:
        part, _, rest = name.partition(".")
        try:
            found[name] = model.modules(part).get_parameter(rest)
        except AttributeError:
            raise EditError(f"the model {model.name} has no {name}: the edit is for another family") from None
    return found


def parameter_modules(model: AnyModel, names: tuple[str, ...]) -> dict[str, nn.Module]:
    """Return the modules of weights, by the full name of each; `EditError` if one is missing or no map's weight."""
    found: dict[str, nn.Module] = {}
    for name in names:
        part, _, rest = name.partition(".")
        module, _, leaf = rest.rpartition(".")
        message = f"{model.name}: {getattr(model, 'fixed', '')}, and the edit changes {name}: give the plain model"
        require(leaf == "weight", message, EditError)
        try:
            found[name] = model.modules(part).get_submodule(module)
        except AttributeError:
            raise EditError(f"the model {model.name} has no {name}: the edit is for another family") from None
    return found


def require_same_base(origin: EditOrigin | None, model: AnyModel, names: tuple[str, ...]) -> Mapping[str, Tensor]:
    """Return the model's own weights under these names. Raises `EditError` if the edit was made for other weights."""
    require_model(model)
    if origin is None:
        return model.reference(names)
    _require_own_family(origin, model)
    own = model.reference(names)
    if is_packed(model, own):
        _require_same_text_side(origin, cast(ModelView, model))
        return own
    found = hash_tensors(own)
    outdated = outdated_note(origin.base) if embedded_world(model.name) is not None else ""
    message = f"the edit was made for {origin.base}: {outdated}; make it anew"
    require(found == origin.base_hash or not outdated, message, EditError)
    message = (
        f"the edit was made for {origin.base} ({origin.base_hash[:12]}), not for {model.name} ({found[:12]}): apply it"
        " to its own base"
    )
    require(found == origin.base_hash, message, EditError)
    return own


def is_packed(model: AnyModel, weights: Mapping[str, Tensor]) -> bool:
    """Whether a model holds some of its weights in a form whose numbers cannot be compared."""
    return bool(getattr(model, "fixed", "")) and not all(map(is_plain_weight, weights.values()))


def _require_own_family(origin: EditOrigin, model: AnyModel) -> None:
    family = getattr(model, "family", origin.family)  # A network that is no pipeline has none.
    message = f"the edit was made for a {origin.family} model, and {model.name} is one of {family}: give its own"
    require(origin.family == family, message, EditError)


def _require_same_text_side(origin: EditOrigin, model: ModelView) -> str:
    """Return the hash that model and base share. `EditError` unless the model can be a quantised copy of the base."""
    _require_own_family(origin, model)
    message = (
        f"{model.name}: {model.fixed}, and the edit does not tell its base's text encoders: make it anew to apply it to"
        " a quantised copy"
    )
    require(bool(origin.text_side), message, EditError)
    found = text_side(model)
    shared = [found[label] for label in found if found[label] == origin.text_side.get(label)]
    told, own = (next(iter(sides.values()))[:12] for sides in (origin.text_side, found))
    message = (
        f"{model.name} is no quantised copy of {origin.base}: their text encoders differ ({own}, not {told}): apply the"
        " edit to a copy of its own base"
    )
    require(bool(shared), message, EditError)
    return shared[0]


def base_note(edit: Edit, model: ModelView) -> str:
    """Say in one line that a model is a quantised copy of the edit's base; "" if it is not one."""
    fixed = getattr(model, "fixed", "")
    if edit.origin is None or not fixed or not is_packed(model, model.reference(edit.bound_names)):
        return ""
    shared = _require_same_text_side(edit.origin, model)
    return (
        f"{model.name} is a quantised copy of {edit.origin.base}: {model.fixed}, its text encoders are the same"
        f" ({shared[:12]}), and the edit changes no weight"
    )
