"""Whole checkpoints with an edit in their weights: one file in the original layout, or a diffusers folder of another dtype."""

import json
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..models.original_names import Layout, stacked
from ..models.places import has_part, places
from ..models.stream import open_file
from ..models.variants import PARTS, chosen
from ..models.writer import DTYPES, Slot, write_slots
from .base import Edit
from .folders import copy_rest
from .weights import added


def write_single_file(edit: Edit, source: Path, layout: Layout, dtype: torch.dtype | None, path: Path, told: Mapping[str, str]) -> None:
    """UNet, VAE and text encoders of the diffusers folder `source` in one file, tensor by tensor."""
    files = {f"{part}.{name}": place.file for part in layout.parts for name, place in places(source, part).items()}
    opened = cache(open_file)
    slots = {}
    for target, names in stacked(files, layout).items():
        first = _slot(edit, opened, files[names[0]], names[0], dtype)
        shape = (first.shape[0] * len(names), *first.shape[1:])
        turned = target.endswith(".text_projection")  # OpenCLIP multiplies by it from the other side.
        if turned:
            shape = shape[::-1]
        if target.startswith("first_stage_model.") and ".attn_1." in target and len(shape) == 2:
            shape = (*shape, 1, 1)  # The original VAE attends with 1 x 1 convolutions.
        makers = [_slot(edit, opened, files[name], name, dtype).make for name in names]
        slots[target] = Slot(shape, first.dtype, partial(_made, makers, turned, shape))
    write_slots(path, slots, told)


def write_folder(edit: Edit, source: Path, dtype: torch.dtype, target: Path, told: Mapping[str, str]) -> tuple[str, ...]:
    """The diffusers folder with every weight in `dtype`, in one variant alone; what is no weight is copied. What was left out, by name."""
    opened = cache(open_file)
    known = {part: {place.file for place in places(source, part).values()} for part in PARTS if has_part(source, part)}
    written = {file for files in known.values() for file in files}
    indexes = [stands for part in known if (stands := chosen(source, part)) not in written]
    left_out = copy_rest(source, target, written, indexes, known)
    for part, file in ((part, file) for part, files in known.items() for file in sorted(files)):
        slots = {name: _slot(edit, opened, file, f"{part}.{name}", dtype) for name in opened(file).keys()}
        write_slots(target / file.relative_to(source), slots, told)
    for index in indexes:
        table = json.loads(index.read_text(encoding="utf-8"))
        sizes = (opened(index.parent / file).get_slice(name) for name, file in table["weight_map"].items())
        table["metadata"] = {"total_size": sum(torch.Size(piece.get_shape()).numel() * dtype.itemsize for piece in sizes)}
        (target / index.relative_to(source)).write_text(json.dumps(table, indent=2, sort_keys=True), encoding="utf-8")
    return left_out


def _slot(edit: Edit, opened: Callable[[Path], Any], file: Path, name: str, dtype: torch.dtype | None) -> Slot:
    """One tensor of the folder with the edit in it, rounded once; whole numbers keep their dtype."""
    inner = name.partition(".")[2]
    piece = opened(file).get_slice(inner)
    own = DTYPES[piece.get_dtype()]
    kept = dtype if dtype is not None and own.is_floating_point else own

    def make() -> Tensor:
        weight: Tensor = opened(file).get_tensor(inner)
        if name not in edit.names:
            return weight.to(kept)
        wide = torch.promote_types(weight.dtype, torch.float32)
        return added(weight.to(wide), edit.delta(name, weight)).to(kept)

    return Slot(tuple(piece.get_shape()), kept, make)


def _made(makers: list[Callable[[], Tensor]], turned: bool, shape: tuple[int, ...]) -> Tensor:
    tensor = torch.cat([make() for make in makers]) if len(makers) > 1 else makers[0]()
    return (tensor.T if turned else tensor).reshape(shape)
