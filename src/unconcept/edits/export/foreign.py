"""Reads what other tools made of a model as an edit: LoRAs, patches, CPE's gates, whole weights, an edited checkpoint.

ESD's and UCE's scripts write the weights that they trained under diffusers' names; a whole checkpoint, a folder or a
single file, holds all of them. Both become the exact difference to the base.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...core.errors import EditError, ModelError, require
from ...core.regular_files import require_own_files, require_regular_file
from ...models.checkpoint.config import config_folder, family_of_folder, read_config
from ...models.checkpoint.safetensors_io import (
    GGUF_REMEDY,
    PICKLE_REMEDY,
    PICKLE_SUFFIXES,
    LazyTensors,
    TensorLocation,
    open_file,
)
from ...models.checkpoint.storage import stored_tensors
from ...models.checkpoint.weight_files import weight_file, weight_variants
from ..base import EDIT_FORMAT
from ..residual_gate import ResidualGateEdit
from ..weight_edits import DenseEdit, LowRankEdit
from .base_tensors import BaseTensors, unpack_whole
from .lora_file import LORA_NETWORKS, is_lora_key, read_lora_file
from .lora_reader import edit_of_lora, split_qkv_note
from .residual_gate_file import UNREAD_KEYS_NOTE, edit_of_gate_file, is_gate_file
from .target_family import family_hint, require_same_family

_INDEX = "model_index.json"


@dataclass(frozen=True)
class ForeignEdit:
    """An edit read from files of another tool, and notes on how it was read."""

    edit: LowRankEdit | DenseEdit | ResidualGateEdit
    notes: tuple[str, ...] = ()


def read_foreign_edit(path: Path, source: Path) -> ForeignEdit:
    """Read a file or folder of another tool as an edit of `source`, a diffusers folder or single file.

    Raises `EditError` for what has no place in the model; no tensor is dropped without a note.
    """
    try:
        require(path.exists(), "the file or folder is missing", EditError)
        require_regular_file(path, EditError)
        require_own_files(path, EditError)
        require(path.suffix not in PICKLE_SUFFIXES, PICKLE_REMEDY, EditError)
        require(path.suffix != ".gguf", GGUF_REMEDY, EditError)
        base = BaseTensors(source)
        if path.is_dir():
            parts = _parts(path, base)
            if not parts:
                return _from_lora(path, base)
            found = _from_checkpoint(_of_parts(parts), base, is_whole=True)
            return ForeignEdit(found.edit, (*found.notes, *_vae_notes(path, source)))
        with open_file(path) as file:
            keys, header = list(file.keys()), file.metadata() or {}
        message = "it is an edit file of this library: it needs no import"
        require(header.get("format") != EDIT_FORMAT, message, EditError)
        if is_gate_file(keys):
            return ForeignEdit(edit_of_gate_file(path, base), (UNREAD_KEYS_NOTE,))
        if not keys or any(map(is_lora_key, keys)):
            return _from_lora(path, base)
        require_same_family(header, base)
        return _from_file(path, base, header)
    except (EditError, ModelError) as error:
        raise EditError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None


def _from_lora(path: Path, base: BaseTensors) -> ForeignEdit:
    file = read_lora_file(path)
    note = split_qkv_note(file)
    return ForeignEdit(edit_of_lora(file, base), (note,) if note else ())


def _from_file(path: Path, base: BaseTensors, header: Mapping[str, str]) -> ForeignEdit:
    """Read some whole weights, or a whole checkpoint in the original layout."""
    stored = stored_tensors(path)
    unknown = [key for key in stored if key not in base.parameters]
    held = {name for key in stored if key in base.parameters for name in base.parameters[key]}
    denoiser = {name for name in base.locations if name.startswith(("unet.", "transformer."))}
    is_whole = denoiser <= held
    hint = family_hint(list(stored), header, base)
    message = f"{unknown[0] if unknown else ''} is neither a LoRA nor a weight of {base.source.name}: {hint}"
    require(is_whole or not unknown, message, EditError)
    found = _from_checkpoint({key: place for key, place in stored.items() if key not in unknown}, base, is_whole)
    more = f"{len(unknown)} tensors outside denoiser and text encoders are not compared"
    return ForeignEdit(found.edit, (*found.notes, more) if unknown else found.notes)


def _from_checkpoint(stored: Mapping[str, TensorLocation], base: BaseTensors, is_whole: bool) -> ForeignEdit:
    """Take the difference of every stored tensor to the base, one after the other."""
    tensors, deltas, rounded, held = LazyTensors(stored), dict[str, Tensor](), 0, set[str]()
    for key in stored:
        require(key in base.parameters, f"{key} is no weight of {base.source.name}: it is of another model", EditError)
        tensor = tensors[key]
        for name, laid in base.parameters[key].items():
            require(name not in held, f"it holds {name} under two names: keep one", EditError)
            held.add(name)
            value = unpack_whole(key, tensor, base.shapes[name], laid)
            delta = base.difference(name, value)
            if bool(delta.any()):
                deltas[name] = delta
            else:
                rounded += not torch.equal(value.double(), base.read(name).double())
    require(bool(deltas), f"its {len(held)} weights are those of {base.source.name}: it is not edited", EditError)
    return ForeignEdit(DenseEdit(deltas), tuple(_notes(base, deltas, held, rounded, is_whole)))


def _notes(
    base: BaseTensors, deltas: Mapping[str, Tensor], held: set[str], rounded: int, is_whole: bool
) -> Iterator[str]:
    """Tell what was compared and what was left out."""
    yield f"{len(deltas)} of its {len(held)} weights differ from {base.source.name}"
    if rounded:
        yield f"{rounded} weights are the base's, rounded to a narrower dtype, and are left out"
    parts = {name.partition(".")[0] for name in held}
    missing = [name for name in base.locations if name.partition(".")[0] in parts and name not in held]
    if missing and is_whole:
        yield f"{len(missing)} weights of the base are not in it, such as {missing[0]}; they stay as they are"


def _parts(folder: Path, base: BaseTensors) -> dict[str, Path]:
    """The folders with whole weights by part; empty for PEFT adapters, whose weights have another name."""
    if (folder / _INDEX).exists():
        said, own = family_of_folder(folder).name, family_of_folder(base.source).name
        require(said == own, f"it is a {said} model, {base.source.name} is {own}: give its own base", EditError)
        return {part: folder / part for part in LORA_NETWORKS if weight_variants(folder / part)}
    if any(folder.rglob("adapter_config.json")) or any(folder.rglob("adapter_model.safetensors")):
        return {}
    found = {part: folder / part for part in LORA_NETWORKS if weight_variants(folder / part)}
    return found or ({_own_part(folder, base): folder} if weight_variants(folder) else {})


def _own_part(folder: Path, base: BaseTensors) -> str:
    """The part whose folder this is, by the class in its config."""
    told = read_config(folder / "config.json")
    kinds = told.get("architectures") if isinstance(told.get("architectures"), list) else [told.get("_class_name")]
    index = read_config(config_folder(base.source) / _INDEX)
    parts = [part for part in LORA_NETWORKS if isinstance(index.get(part), list) and index[part][-1:] == kinds]
    message = f"its config.json names a {kinds}, which is not one part of {base.source.name}: give it as a whole model"
    require(len(parts) == 1, message, EditError)
    return parts[0]


def _of_parts(parts: Mapping[str, Path]) -> dict[str, TensorLocation]:
    """The location of every tensor of the parts, by its full name there."""
    found: dict[str, TensorLocation] = {}
    for part, folder in parts.items():
        own = stored_tensors(weight_file(folder.parent, folder.name))
        found |= {f"{part}.{name}": place for name, place in own.items() if not name.endswith("position_ids")}
    return found


def _vae_notes(folder: Path, base: Path) -> tuple[str, ...]:
    """Tell of an autoencoder that is not the base's: no edit changes it."""
    if not all(weight_variants(model / "vae") for model in (folder, base)):
        return ()
    ours, theirs = (LazyTensors(stored_tensors(weight_file(model, "vae"))) for model in (base, folder))
    is_same = set(ours) == set(theirs) and all(torch.equal(ours[name], theirs[name].to(ours[name])) for name in ours)
    return () if is_same else ("its autoencoder differs from the base's too, and is no part of the edit",)
