"""Reads the base weights of an edit, under the edit's names, and checks that they are the right ones."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ...core.errors import EditError, require
from ...core.hashing import hash_tensors
from ...models.checkpoint.locations import has_part, tensor_locations
from ...models.checkpoint.safetensors_io import LazyTensors, TensorLocation
from ...worlds.registry import outdated_note, worlds
from ..base import Edit


@dataclass(frozen=True)
class BaseWeights:
    """The weights that an edit changes, in a diffusers folder or single file."""

    weights: Mapping[str, Tensor]  # by full name, in the files' own dtype, each read on access
    places: Mapping[str, TensorLocation]  # the location of each


def read_base_weights(edit: Edit, source: Path) -> BaseWeights:
    """Locate the weights of an edit in `source`, a diffusers folder or single file.

    Raises `EditError` if they are not the weights that the edit was made for.
    """
    require_bakeable(edit)
    stands: dict[str, TensorLocation] = {}
    for part in sorted({name.partition(".")[0] for name in edit.names}):
        require(has_part(source, part), f"{source} has no {part}: the edit is for another family", EditError)
        known = tensor_locations(source, part)
        names = [name.partition(".")[2] for name in edit.names if name.startswith(f"{part}.")]
        missing = [name for name in names if name not in known]
        require(
            not missing,
            f"{source} has no {part}.{missing[0] if missing else ''}: the edit is for another family",
            EditError,
        )
        stands |= {f"{part}.{name}": known[name] for name in names}
    weights = LazyTensors(stands)
    found = hash_tensors(weights)
    if edit.origin is None or edit.origin.base_hash == found:
        return BaseWeights(weights, stands)
    is_embedded = any(source == worlds[name].shipped_folder for name in worlds)
    if outdated := outdated_note(edit.origin.base) if is_embedded else "":
        raise EditError(f"the edit was made for {edit.origin.base}: {outdated}; make it anew")
    raise EditError(
        f"the edit was made for other weights ({edit.origin.base_hash[:12]}) than {source} holds ({found[:12]}): give"
        " its own base"
    )


def require_bakeable(edit: Edit) -> None:
    """Raise `EditError` if the edit does not change weights."""
    if edit.can_bake():
        return
    told, remedy = f"the edit {edit.describe()}", "draw with `sample --edit`"
    if not edit.static().can_bake():
        raise EditError(f"{told}, so it cannot be baked or exported; {remedy}")
    raise EditError(
        f"{told}, and in a weight or a LoRA that gating is lost: {remedy}, or write it at full strength for every"
        " prompt, on both sides of guidance, with --static"
    )
