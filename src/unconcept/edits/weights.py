"""The weights of a model that an edit is bound to: found, checked, and changed for a while."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from ..core.errors import EditError, ModelError, require
from ..core.hashing import hash_tensors
from ..models.hooks.parameters import with_values
from ..models.module_view import AnyModel
from ..worlds.registry import embedded_world, outdated_note
from .base import Edit, EditOrigin


@contextmanager
def add_to_weights(edit: Edit, model: AnyModel) -> Iterator[None]:
    """Inside the block, each named parameter is its own value plus the edit's delta; nested edits add up."""
    live = live_parameters(model, edit.names)
    own = require_same_base(edit.origin, model, edit.names)
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


def require_same_base(origin: EditOrigin | None, model: AnyModel, names: tuple[str, ...]) -> Mapping[str, Tensor]:
    """Return the model's own weights under these names. Raises `EditError` if the edit was made for other weights."""
    require_model(model)
    own = model.reference(names)
    if origin is None:
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
