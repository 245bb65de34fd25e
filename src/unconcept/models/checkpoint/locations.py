"""Finds the file and name of each tensor of a model, in a diffusers folder or a single file."""

from dataclasses import replace
from pathlib import Path

from ...core.errors import ModelError, require
from ..layouts.layout import ModelLayout
from .config import config_folder
from .safetensors_io import TensorLocation, open_file
from .storage import stored_tensors
from .weight_files import weight_file, weight_variants


def has_part(source: Path, part: str) -> bool:
    """Whether a model has this part: SD3 is also published without its T5."""
    return (config_folder(source) / part).is_dir()


def companion_folder(source: Path) -> list[str]:
    """The parts that a single file lacks and the folder of its configs has: text encoders and VAE of published FLUX."""
    layout, folder = ModelLayout.of(source), config_folder(source)
    with open_file(source) as file:
        keys = list(file.keys())

    def is_lacking(part: str) -> bool:
        return not any(key.startswith(layout.prefix(part)) for key in keys)

    others = [part for part in layout.parts if part != layout.denoiser and weight_variants(folder / part)]
    return [part for part in others if is_lacking(part)]


def tensor_locations(source: Path, part: str) -> dict[str, TensorLocation]:
    """Find the tensors of a part of `source`, by their names in a diffusers folder; `ModelError` if there are none."""
    if source.is_dir():
        return stored_tensors(weight_file(source, part))
    if part in companion_folder(source):
        return tensor_locations(config_folder(source), part)
    stored = stored_tensors(source)
    found = ModelLayout.of(source).in_folder(stored, part)
    message = (
        f"{source} holds no {part} in the original layout: give a whole checkpoint of the family that its configs name,"
        f" or with --config a diffusers folder that has the weights of {part}"
    )
    require(bool(found), message, ModelError)
    return {name: replace(stored[key], packing=packing) for name, (key, packing) in found.items()}
