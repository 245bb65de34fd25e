"""Copies the files of a diffusers folder that an edit does not change."""

import shutil
from collections.abc import Collection
from pathlib import Path

from ...core.errors import ModelError
from ...core.regular_files import require_own_files
from ...models.checkpoint.file_copy import shared_copy
from ...models.checkpoint.safetensors_io import PICKLE_SUFFIXES

_WEIGHT_SUFFIXES = (".safetensors", ".msgpack", ".onnx", ".onnx_data", ".h5", ".gguf", *PICKLE_SUFFIXES)
_INDEX_PATTERNS = (".safetensors.*json", ".bin.*json")


def copy_unedited_files(
    source: Path, target: Path, written: Collection[Path], used: Collection[Path], parts: Collection[str]
) -> tuple[str, ...]:
    """Copy all files except the `written` ones, and return the names of those left out.

    Weight files and indexes of the edited `parts` are copied only if they are `used`, and none at the top of the folder
    is: the others hold the unedited model. Weight files share their bytes with the source if the file system can do
    so. Hidden folders are not part of a model and are skipped. `ModelError` for a link that leaves the folder.
    """
    require_own_files(source, ModelError)
    left_out = []
    target.mkdir(parents=True, exist_ok=True)
    for file in sorted(path for path in source.rglob("*") if path.is_file()):
        name = file.relative_to(source)
        if file in written or name.parts[0].startswith("."):
            continue
        holds_weights = file.suffix in _WEIGHT_SUFFIXES
        is_index = any(file.match(f"*{index}") for index in _INDEX_PATTERNS)
        of_edited = len(name.parts) == 1 or name.parts[0] in parts
        if (holds_weights or is_index) and of_edited and file not in used:
            left_out.append(name.as_posix())
            continue
        place = target / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if holds_weights:
            shared_copy(file, place)
        else:
            shutil.copyfile(file, place)
    return tuple(left_out)
