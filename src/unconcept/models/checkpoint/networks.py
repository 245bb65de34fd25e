"""Builds single networks of a model from its tensors, where diffusers would not read them as they are stored."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...core.errors import ModelError, require
from ..family import TextEncoderSpec
from ..layouts.layout import ModelLayout
from .config import config_folder, family_of_folder, read_config
from .library_errors import library_errors
from .locations import PROJECTION, companions, has_part, tensor_locations
from .safetensors_io import LazyTensors, TensorLocation, open_file
from .weight_files import WEIGHT_PARTS, weight_variants


def own_networks(source: Path, told: Mapping[str, object], dtype: torch.dtype) -> dict[str, nn.Module]:
    """Build the networks with 8-bit weights, which diffusers would read without their scales.

    `told` is the table of `model_index.json`. Of a single file, all networks are built if one of them is 8-bit; text
    encoders in files of their own always are, and a denoiser that is published alone, because not every pipeline of
    such a family reads single files.
    """
    folder, is_file = config_folder(source), not source.is_dir()
    beside = companions(source) if is_file else {}
    found = {part: tensor_locations(source, part) for part in _parts_with_weights(source, beside)}
    parts = {part for part, places in found.items() if _is_eight_bit(places)}
    if is_file and not parts <= set(beside):
        parts = set(found)
    parts |= {part for part, place in beside.items() if place.is_file()}
    spec = family_of_folder(folder)
    if is_file and spec.holds_denoiser_alone:
        parts.add(spec.denoiser)
    built = {part: build_network(folder, part, told.get(part), found[part]).to(dtype) for part in sorted(parts)}
    if is_file and parts == set(found) and "vae" not in found:
        built["vae"] = build_vae(source, told.get("vae"), dtype)
    return built


def _is_eight_bit(places: Mapping[str, TensorLocation]) -> bool:
    return any(place.is_eight_bit for place in places.values())


def _parts_with_weights(source: Path, beside: Collection[str]) -> list[str]:
    """The parts whose tensors can be found by name; for a single file, all but the autoencoder in it."""
    folder = config_folder(source)
    if source.is_dir():
        return [part for part in WEIGHT_PARTS if weight_variants(folder / part)]
    return [part for part in WEIGHT_PARTS if has_part(source, part) and (part != "vae" or part in beside)]


def build_network(folder: Path, part: str, told: object, places: Mapping[str, TensorLocation]) -> nn.Module:
    """Build a part from its config in `folder` and its own tensors, each read and scaled on its own."""
    from accelerate import init_empty_weights

    kind = part_class(folder, part, told)
    with library_errors(folder / part), init_empty_weights(include_buffers=False):
        if hasattr(kind, "config_class") and hasattr(kind.config_class, "from_pretrained"):
            module = kind(kind.config_class.from_pretrained(folder / part, local_files_only=True))
        else:
            module = kind.from_config(read_config(folder / part / "config.json"))
    _project_by_identity(module, family_of_folder(folder).encoder(part), places)
    return _filled(module, LazyTensors(places), f"{folder.name}: {part}")


def _project_by_identity(
    module: nn.Module, encoder: TextEncoderSpec | None, places: Mapping[str, TensorLocation]
) -> None:
    """Leave pooled text as it is where single files have no projection for it, as diffusers does."""
    projection = getattr(module, "text_projection", None)
    if encoder is not None and encoder.is_unprojected and projection is not None and PROJECTION not in places:
        projection.weight = nn.Parameter(torch.eye(*projection.weight.shape), requires_grad=False)


def build_vae(source: Path, told: object, dtype: torch.dtype) -> nn.Module:
    """Build the autoencoder of a single file, whose names diffusers translates."""
    folder, prefix = config_folder(source), ModelLayout.of(source).prefix("vae")
    with open_file(source) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys() if name.startswith(prefix)}
    with library_errors(source):
        module: nn.Module = part_class(folder, "vae", told).from_single_file(
            tensors, config=str(folder), subfolder="vae", local_files_only=True, dtype=dtype
        )
    return module


def _filled(module: nn.Module, tensors: Mapping[str, Tensor], where: str) -> nn.Module:
    """Give a network without weights its tensors; older files have CLIP's with the prefix `text_model.`."""
    stored = {name.removeprefix("text_model."): name for name in tensors}
    own = {name: stored.get(name.removeprefix("text_model.")) for name, _ in module.named_parameters()}
    missing = [name for name, there in own.items() if there is None]
    module.load_state_dict({name: tensors[there] for name, there in own.items() if there}, strict=False, assign=True)
    tie_weights = getattr(module, "tie_weights", None)
    if tie_weights is not None:  # Of transformers: T5 has its embeddings twice.
        tie_weights()
    bare = [name for name in missing if module.get_parameter(name).is_meta]
    require(not bare, f"{where} lacks {bare[0] if bare else ''}: give a complete model", ModelError)
    return module


def part_class(folder: Path, part: str, told: object) -> Any:
    """The class of a part, of diffusers or transformers, as `model_index.json` names it."""
    import diffusers
    import transformers

    library, kind = told if isinstance(told, list) and len(told) == 2 else (None, None)
    known = {"diffusers": diffusers, "transformers": transformers}
    message = f"{folder}: model_index.json has {told} for {part}; give a complete diffusers folder"
    require(library in known and hasattr(known[str(library)], str(kind)), message, ModelError)
    return getattr(known[str(library)], str(kind))
