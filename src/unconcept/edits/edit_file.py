"""Edit files: safetensors files whose header describes the edit. Reading a damaged one raises `EditError`."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..core.errors import EditError, OutputError, require
from ..core.escapes import require_unicode
from ..core.hashing import hash_tensors
from ..core.output_folder import atomic_file
from ..core.regular_files import require_regular_file
from ..models.checkpoint.safetensors_io import DeferredTensor, write_deferred_tensors
from .base import EDIT_FORMAT, EDIT_FORMAT_VERSION, EditOrigin

_CHECKSUM = "tensors_sha256"  # key of the header


@dataclass(frozen=True)
class StoredEdit:
    """The content of an edit file."""

    kind: str
    tensors: Mapping[str, Tensor]
    origin: EditOrigin
    details: Mapping[str, Any] = field(default_factory=dict)  # JSON data that a kind needs besides tensors

    def texts(self, name: str) -> tuple[str, ...]:
        """Return a list of texts among the details. Raises `EditError` if it is none."""
        found = self.details.get(name)
        is_list = isinstance(found, list) and all(isinstance(text, str) for text in found)
        require(is_list, f"its {name} are {found!r}, not a list of texts", EditError)
        return tuple(found or ())

    def number(self, name: str) -> float:
        """Return a finite number among the details. Raises `EditError` if it is none."""
        found = self.details.get(name)
        require(is_finite_number(found), f"its {name} is {found!r}: give a finite number", EditError)
        return float(found or 0)

    def numbers(self, name: str, kind: type) -> dict[str, Any]:
        """Return the fields of a dataclass of finite numbers. Raises `EditError` if they are none."""
        found, known = self.details.get(name), sorted(each.name for each in fields(kind))
        message = f"its {name} is {found!r}: it has the fields {known}, all finite numbers"
        is_whole = isinstance(found, dict) and sorted(found) == known and all(map(is_finite_number, found.values()))
        require(is_whole, message, EditError)
        return dict(found or {})


def is_finite_number(value: object) -> bool:
    """Whether it is a number that a file may give."""
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def write_edit_file(path: str | Path, stored: StoredEdit) -> None:
    """Write the tensors in float32 or wider and everything else into the header, with a checksum of the tensors.

    The same edit gives the same bytes. Safetensors' own writer would not: it shuffles its header. Raises `OutputError`
    if the file cannot be written; a former file then stays.
    """
    path = Path(path)
    require(
        path.parent.is_dir(), f"{path.parent} is no folder: make it first, or save {path.name} elsewhere", OutputError
    )
    metadata = {
        "format": EDIT_FORMAT,
        "format_version": EDIT_FORMAT_VERSION,
        "kind": stored.kind,
        "origin": stored.origin.to_json(),
        _CHECKSUM: hash_tensors(stored.tensors),
    }
    if stored.details:
        metadata["details"] = json.dumps(stored.details, sort_keys=True)
    with atomic_file(path, "free some space or choose another path") as part:
        write_deferred_tensors(part, {name: _slot(tensor) for name, tensor in stored.tensors.items()}, metadata)


def _slot(tensor: Tensor) -> DeferredTensor:
    return DeferredTensor(tuple(tensor.shape), torch.promote_types(tensor.dtype, torch.float32), lambda: tensor)


def read_edit_file(path: Path) -> StoredEdit:
    """Read an edit file. Raises `EditError` with the path and the fault if it cannot be used."""
    require(not path.is_dir(), f"edit {path} is a folder: give the edit.safetensors in it", EditError)
    require_regular_file(path, EditError)
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            found = metadata.get("format"), metadata.get("format_version")
            require(
                found[0] == EDIT_FORMAT,
                f"edit {path}: this is no {EDIT_FORMAT} file; give the edit.safetensors of an erasure",
                EditError,
            )
            message = (
                f"edit {path}: it has format version {found[1]}, this library reads {EDIT_FORMAT_VERSION}; update"
                " unconcept"
            )
            require(found[1] == EDIT_FORMAT_VERSION, message, EditError)
            # Copies are aligned like computed tensors; the file's own alignment would change the last bits of products.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}
    except (OSError, SafetensorError, ValueError) as error:
        raise EditError(f"edit {path}: {error}; the file is missing, cut short or damaged") from None
    try:
        origin, details = EditOrigin.from_json(metadata.get("origin", "")), _details(metadata.get("details", "{}"))
        for name, tensor in tensors.items():
            sound = tensor.is_floating_point() and bool(torch.isfinite(tensor).all())
            require(sound, f"{name} holds NaN, infinity or integers", EditError)
        whole = metadata.get(_CHECKSUM) in (None, hash_tensors(tensors))  # None: version 0.1 wrote no checksum.
        require(whole, "its tensors are not those that were saved: their checksum differs", EditError)
    except EditError as error:
        raise EditError(f"edit {path}: {error}; the file is damaged: make the edit again") from None
    return StoredEdit(metadata.get("kind", ""), tensors, origin, details)


def _details(text: str) -> dict[str, Any]:
    try:
        details: dict[str, Any] = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise EditError(f"its details cannot be read: {error}") from None
    require(isinstance(details, dict), "its details are not a JSON object", EditError)
    require_unicode(json.dumps(details, ensure_ascii=False), "its details", EditError)
    return details
