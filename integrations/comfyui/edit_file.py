"""Reads edit files of unconcept: safetensors whose header says what they hold. Nothing else is opened."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

SUFFIX = ".safetensors"
_FORMAT, _VERSION = "unconcept-edit", "1"
_KINDS = ("text_map", "low_rank", "dense")  # what changes weights, or texts alone


@dataclass(frozen=True)
class StoredEdit:
    """An edit as its file holds it."""

    name: str
    kind: str
    tensors: dict[str, Tensor]
    maps: tuple[str, ...]  # of a map on the text: the weights (full names) that read through it
    origin: dict[str, Any]

    @property
    def family(self) -> str:
        """The family of its base."""
        return str(self.origin.get("family", ""))


def edit_path(folders: list[str], name: str) -> Path:
    """The file of an edit by its name in one of the folders; `ValueError` if it is outside of them or not there."""
    for folder in map(Path, folders):
        path = (folder / name).resolve()
        if path.suffix == SUFFIX and path.is_relative_to(folder.resolve()) and path.is_file():
            return path
    raise ValueError(f"{name} is no {SUFFIX} file in {' or '.join(folders)}: put the edit there")


def read_edit(path: Path) -> StoredEdit:
    """Read an edit; `ValueError` in one line if it is none, or of a kind that these nodes do not apply."""
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path.name}: {error}: the file is damaged") from None
    if (header.get("format"), header.get("format_version")) != (_FORMAT, _VERSION):
        raise ValueError(f"{path.name} is no edit of unconcept in format {_VERSION}: give an edit.safetensors")
    kind = header.get("kind", "")
    if kind not in _KINDS:
        remedy = "draw with it in Python, or bake its static part with `unconcept apply --static`"
        raise ValueError(f"{path.name} is an edit of the kind {kind}, which acts while pictures are drawn: {remedy}")
    try:
        origin, details = json.loads(header["origin"]), json.loads(header.get("details", "{}"))
        maps = tuple(map(str, details.get("maps", ())))
    except (KeyError, ValueError, AttributeError, TypeError):
        raise ValueError(f"{path.name}: its header cannot be read: make the edit again") from None
    if not isinstance(origin, dict) or (kind == "text_map" and not ({"x", "y"} <= tensors.keys() and maps)):
        raise ValueError(f"{path.name}: it lacks what its header says: make the edit again")
    return StoredEdit(path.name, kind, tensors, maps, origin)


def weight_changes(edit: StoredEdit) -> dict[str, Tensor]:
    """What a low-rank or dense edit adds to each weight, by full name."""
    if edit.kind == "dense":
        return dict(edit.tensors)
    found = {}
    for name, up in edit.tensors.items():
        if name.endswith(".up"):
            weight = name.removesuffix(".up")
            down = edit.tensors.get(f"{weight}.down", edit.tensors.get("down"))  # All maps may share one.
            if down is None:
                raise ValueError(f"{edit.name}: {weight} has no down factor: make the edit again")
            found[weight] = up @ down
    return found
