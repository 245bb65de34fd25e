"""Copy what an edit leaves alone of a diffusers folder."""

import shutil
from collections.abc import Collection
from pathlib import Path

from ...models.checkpoint.file_copy import shared_copy
from ...models.checkpoint.safetensors_io import PICKLE_SUFFIXES

_WEIGHT_SUFFIXES = (".safetensors", ".msgpack", ".onnx", ".onnx_data", ".h5", ".gguf", *PICKLE_SUFFIXES)
_INDEX_PATTERNS = (".safetensors.*json", ".bin.*json")


def copy_unedited_files(
    source: Path, target: Path, written: Collection[Path], used: Collection[Path], parts: Collection[str]
) -> tuple[str, ...]:
    """All files but those that are `written` otherwise; the names of those left out.

    Of the edited `parts` only weight files and indexes that are `used` are copied, and at the top none: they hold the
    unedited model. Weight files share their bytes with the source where the file system can; hidden folders are no part
    of a model.
    """
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
            shutil.copy2(file, place)
    return tuple(left_out)
