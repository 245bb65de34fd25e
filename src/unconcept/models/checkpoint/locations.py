"""Finds the file and name of each tensor of a model, in a diffusers folder or a single file.

A single file may lack text encoders. They are then read from the folder of its configs, or from files of their own in
the folder `text_encoders` beside it, as Stability publishes them: `clip_l.safetensors`, `t5xxl_fp16.safetensors`.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from ...core.errors import ModelError, require
from ...core.regular_files import require_regular_file
from ..family import TextEncoderSpec
from ..layouts.clip import folder_encoder_tensors
from ..layouts.layout import ModelLayout
from ..layouts.packing import Packing
from .config import config_folder
from .safetensors_io import TensorLocation, open_file
from .storage import stored_tensors
from .weight_files import weight_file, weight_variants

_ENCODERS_FOLDER = "text_encoders"
PROJECTION = "text_projection.weight"


def has_part(source: Path, part: str) -> bool:
    """Whether a model has this part: SD3 is also published without its T5, whose config may be there all the same."""
    if not (config_folder(source) / part).is_dir():
        return False
    encoder = None if source.is_dir() else ModelLayout.of(source).spec.encoder(part)
    if encoder is None or not encoder.is_optional:
        return True
    return not _is_lacking(source, encoder.single_file) or part in companions(source)


def companions(source: Path) -> dict[str, Path]:
    """Where the parts are that a single file lacks: a part's folder in its configs, or the file of a text encoder."""
    layout, folder = ModelLayout.of(source), config_folder(source)
    found = {part: folder / part for part in layout.parts[1:] if weight_variants(folder / part)}
    files = {encoder.part: _encoder_file(source, encoder) for encoder in layout.spec.encoders}
    found = {part: file for part, file in files.items() if file is not None} | found
    return {part: place for part, place in found.items() if _is_lacking(source, layout.prefix(part))}


def encoder_files(source: Path) -> list[Path]:
    """The files of text encoders beside a single file that are read with it."""
    is_file = source.suffix == ".safetensors" and source.is_file()
    return [place for place in companions(source).values() if place.is_file()] if is_file else []


def _encoder_file(source: Path, encoder: TextEncoderSpec) -> Path | None:
    """A text encoder's own file beside a single file; of several the one that is no 8-bit copy."""
    named = f"{encoder.comfyui}[._-]*safetensors"
    found = list((source.parent / _ENCODERS_FOLDER).glob(named)) if encoder.comfyui else []
    file = min(found, key=lambda path: ("fp8" in path.name, len(path.name), path.name), default=None)
    if file is not None:
        require_regular_file(file, ModelError)
    return file


def _is_lacking(source: Path, prefix: str) -> bool:
    about = source.stat()
    return not any(key.startswith(prefix) for key in _keys(source, about.st_size, about.st_mtime_ns))


@lru_cache(maxsize=16)
def _keys(file: Path, size: int, changed: int) -> tuple[str, ...]:
    """The names of a file's tensors. Size and time are part of the cache's key: a new file is looked at again."""
    with open_file(file) as opened:
        return tuple(opened.keys())


def tensor_locations(source: Path, part: str) -> dict[str, TensorLocation]:
    """Find the tensors of a part of `source`, by their names in a diffusers folder; `ModelError` if there are none."""
    if source.is_dir():
        return stored_tensors(weight_file(source, part))
    layout, place = ModelLayout.of(source), companions(source).get(part)
    if place is not None and place.is_dir():
        return tensor_locations(place.parent, part)
    encoder = layout.spec.encoder(part)
    stored = stored_tensors(place or source)
    if place is None:
        names: Mapping[str, tuple[str, Packing]] = layout.in_folder(stored, part)
    else:
        assert encoder is not None
        naming = "clip" if encoder.kind == "clip" else encoder.naming  # Files of their own have transformers' names.
        names = {name: (key, packing) for key in stored for name, packing in folder_encoder_tensors(key, naming)}
    found = {name: replace(stored[key], packing=packing) for name, (key, packing) in names.items()}
    if encoder is not None and encoder.is_unprojected:
        found.pop(PROJECTION, None)
    require(bool(found), _missing(source, layout, part), ModelError)
    return found


def _missing(source: Path, layout: ModelLayout, part: str) -> str:
    """The message that a single file lacks a part, with all text encoders that it lacks."""
    there = companions(source)
    lacking = [
        encoder
        for encoder in layout.spec.encoders
        if encoder.part not in there and _is_lacking(source, encoder.single_file)
    ]
    if part not in [encoder.part for encoder in lacking]:
        return (
            f"{source} holds no {part} in the original layout: give a whole checkpoint of the family that its configs"
            f" name, or with --config a diffusers folder that has the weights of {part}"
        )
    files = ", ".join(f"{encoder.comfyui}.safetensors{' (optional)' * encoder.is_optional}" for encoder in lacking)
    parts = ", ".join(encoder.part for encoder in lacking)
    return (
        f"{source} holds no {parts} in the original layout: put {files} into {source.parent / _ENCODERS_FOLDER}, give a"
        f" whole checkpoint, or with --config a diffusers folder that has the weights of {parts}"
    )
