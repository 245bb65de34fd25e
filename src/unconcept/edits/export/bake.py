"""Writes an edit into a copy of a checkpoint: it overwrites the changed tensors and keeps every other byte.

A folder may hold its weights several times: in variants (fp16, ...), as pickles, as one file at its top. Copies of an
edited weight are edited too if they are the same weight up to rounding. All others are left out, so that nobody loads
an unedited copy by mistake.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from ...core.errors import EditError, require
from ...models.checkpoint.safetensors_io import LazyTensors, TensorLocation, open_file, patch_file, tensor_shapes
from ...models.checkpoint.storage import stored_tensors
from ...models.checkpoint.weight_files import tensor_files, weight_variants
from ...models.layouts.layout import EMA_PREFIX
from ..base import Edit
from ..weights import weight_sum
from .base_weights import BaseWeights, read_base_weights
from .copy_folder import copy_unedited_files


def bake(edit: Edit, source: Path, target: Path) -> tuple[str, ...]:
    """Copy `source`, a diffusers folder or single file, to `target` with the edit in its weights.

    Returns the names of the files that were left out of a folder.
    """
    base = read_bakeable_weights(edit, source)
    if not source.is_dir():
        patch_file(source, target, _edited(edit, base.places))
        return ()
    changed: dict[Path, dict[str, TensorLocation]] = {}
    used: set[Path] = set()
    parts = sorted({name.partition(".")[0] for name in edit.names})
    for part in parts:
        own = {name: place for name, place in base.places.items() if name.startswith(f"{part}.")}
        for index in weight_variants(source / part).values():
            copies = _copies(index, own)
            if copies:
                used |= {index, *tensor_files(index).values()}
                for name, place in copies.items():
                    changed.setdefault(place.file, {})[name] = place
    left_out = copy_unedited_files(source, target, changed, used, parts)
    for file, members in changed.items():
        patch_file(file, target / file.relative_to(source), _edited(edit, members))
    return left_out


def read_bakeable_weights(edit: Edit, source: Path) -> BaseWeights:
    """Locate the weights of an edit in `source`. Raises `EditError` if they cannot be replaced there."""
    base = read_base_weights(edit, source)
    remedy = "--to diffusers --dtype float16" if source.is_dir() else "--to kohya or comfyui"
    message = f"{source} holds its weights as 8-bit floats, too coarse to hold an edit: `unconcept export {remedy}`"
    require(not any(place.is_eight_bit for place in base.places.values()), message, EditError)
    if not source.is_dir():
        apart = {place.file: name for name, place in base.places.items() if place.file != source}
        told = next((f"{name}, which stands in {file}" for file, name in apart.items()), "")
        message = f"the edit changes {told}, not in {source}: `unconcept export --to kohya or comfyui`"
        require(not apart, message, EditError)
        with open_file(source) as file:
            kept = [key for key in file.keys() if key.startswith(EMA_PREFIX)]
        message = (
            f"{source} holds its network twice, plain and as a running mean ({EMA_PREFIX}...), which would stay"
            " unedited: prune the file first"
        )
        require(not kept, message, EditError)
    return base


def _edited(edit: Edit, members: Mapping[str, TensorLocation]) -> Iterator[tuple[TensorLocation, Tensor]]:
    """Yield one edited tensor after the other, so that only one is in memory."""
    for name, weight in LazyTensors(members).items():
        yield members[name], weight_sum(weight, edit.delta(name, weight))


def _copies(stands: Path, own: Mapping[str, TensorLocation]) -> dict[str, TensorLocation]:
    """Locate the edited weights in a variant; empty if it holds other weights or lacks some."""
    there = stored_tensors(stands)
    if not {place.name for place in own.values()} <= set(there):
        return {}
    found = {name: there[place.name] for name, place in own.items()}
    if found == own:
        return found
    if any(place.is_eight_bit or not place.file.exists() for place in there.values()) or tensor_shapes(
        found
    ) != tensor_shapes(own):
        return {}
    ours, theirs = LazyTensors(own), LazyTensors(found)
    return found if all(_same(ours[name], theirs[name]) for name in own) else {}


def _same(first: Tensor, second: Tensor) -> bool:
    """Compare up to rounding to the narrower dtype; below its normal numbers, up to its smallest step."""
    about = [torch.finfo(tensor.dtype) for tensor in (first, second)]
    eps, step = max(info.eps for info in about), max(info.smallest_normal * info.eps for info in about)
    return torch.allclose(first.double(), second.double(), rtol=eps, atol=step)
