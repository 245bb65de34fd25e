"""Writes checkpoints with an edit in their weights: a file in the original layout, or a folder of another dtype."""

import json
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...core.errors import EditError, require
from ...models.checkpoint.locations import has_part, tensor_locations
from ...models.checkpoint.safetensors_io import (
    SAFETENSORS_DTYPES,
    DeferredTensor,
    TensorLocation,
    open_file,
    read_tensors,
    write_deferred_tensors,
)
from ...models.checkpoint.weight_files import WEIGHT_PARTS, weight_file
from ...models.layouts.layout import ModelLayout, group_by_packed_tensor
from ...models.layouts.packing import Packing, pack_members
from ..base import Edit
from ..weights import weight_sum
from .copy_folder import copy_unedited_files


def write_single_file(
    edit: Edit, source: Path, layout: ModelLayout, dtype: torch.dtype | None, path: Path, metadata: Mapping[str, str]
) -> None:
    """Write the diffusers folder `source` to one file, tensor by tensor: all its networks, or the denoiser alone.

    `EditError` if the edit changes a network that the family's single files leave out.
    """
    outside = sorted(name for name in edit.names if name.partition(".")[0] not in layout.written_parts)
    message = (
        f"a single file of {layout.spec.title} holds the {layout.denoiser} alone, and the edit changes {outside[:1]}:"
        " export --to diffusers"
    )
    require(not outside, message, EditError)
    places = {
        f"{part}.{name}": place
        for part in layout.written_parts
        if has_part(source, part)
        for name, place in tensor_locations(source, part).items()
    }
    opened = cache(open_file)
    slots = {}
    for target, members in group_by_packed_tensor(places, layout).items():
        parts = {name: (_slot(edit, opened, places[name], name, dtype), laid) for name, laid in members.items()}
        first, laid = next(iter(parts.values()))
        shape = laid.packed_shape(first.shape)
        if ".mid.attn_1." in target and len(shape) == 2:
            shape = (*shape, 1, 1)  # The original VAE attends with 1 x 1 convolutions.
        slots[target] = DeferredTensor(shape, first.dtype, partial(_made, parts, shape))
    write_deferred_tensors(path, slots, metadata)


def write_folder(
    edit: Edit, source: Path, dtype: torch.dtype, target: Path, metadata: Mapping[str, str]
) -> tuple[str, ...]:
    """Write the diffusers folder with every weight in `dtype`, in a single variant; copy all other files.

    Returns the names of the files that were left out.
    """
    opened = cache(open_file)
    known = {part: tensor_locations(source, part) for part in WEIGHT_PARTS if has_part(source, part)}
    written = {place.file for places in known.values() for place in places.values()}
    indexes = {part: stands for part in known if (stands := weight_file(source, part)) not in written}
    left_out = copy_unedited_files(source, target, written, indexes.values(), known)
    for part, places in known.items():
        for file in sorted({place.file for place in places.values()}):
            own = {name: place for name, place in places.items() if place.file == file}
            slots = {name: _slot(edit, opened, place, f"{part}.{name}", dtype) for name, place in own.items()}
            write_deferred_tensors(target / file.relative_to(source), slots, metadata)
    for part, index in indexes.items():
        table = json.loads(index.read_text(encoding="utf-8"))
        table["weight_map"] = {name: place.file.name for name, place in known[part].items()}  # Scales are gone.
        sizes = (opened(place.file).get_slice(place.name) for place in known[part].values())
        table["metadata"] = {
            "total_size": sum(torch.Size(piece.get_shape()).numel() * dtype.itemsize for piece in sizes)
        }
        (target / index.relative_to(source)).write_text(json.dumps(table, indent=2, sort_keys=True), encoding="utf-8")
    return left_out


def _slot(
    edit: Edit, opened: Callable[[Path], Any], place: TensorLocation, name: str, dtype: torch.dtype | None
) -> DeferredTensor:
    """Prepare one tensor of the folder with the edit in it, rounded once; integers keep their dtype.

    8-bit floats become the given dtype, or float32.
    """
    piece = opened(place.file).get_slice(place.name)
    own = torch.float32 if place.is_eight_bit else SAFETENSORS_DTYPES[piece.get_dtype()]
    kept = dtype if dtype is not None and own.is_floating_point else own

    def make() -> Tensor:
        weight: Tensor = opened(place.file).get_tensor(place.name)
        if place.is_eight_bit:
            (weight,) = read_tensors({name: place}, [name]).values()
        if name not in edit.names:
            return weight.to(kept)
        wide = torch.promote_types(weight.dtype, torch.float32)
        return weight_sum(weight.to(wide), edit.delta(name, weight)).to(kept)

    return DeferredTensor(tuple(piece.get_shape()), kept, make)


def _made(parts: Mapping[str, tuple[DeferredTensor, Packing]], shape: tuple[int, ...]) -> Tensor:
    if not shape:
        return next(iter(parts.values()))[0].make()
    return pack_members({name: (slot.make(), laid) for name, (slot, laid) in parts.items()}).reshape(shape)
