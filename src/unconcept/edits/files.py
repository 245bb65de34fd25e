"""Edit files: safetensors whose header says what the edit is. Reading one raises `EditError` or returns an edit."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..core.errors import EditError, require
from .base import FORMAT, FORMAT_VERSION, Origin


def write(path: Path, kind: str, tensors: Mapping[str, Tensor], origin: Origin) -> None:
    """Tensors in float32 or wider, with the origin in the header."""
    metadata = {"format": FORMAT, "format_version": FORMAT_VERSION, "kind": kind, "origin": origin.to_json()}
    stored = {n: t.detach().to("cpu", torch.promote_types(t.dtype, torch.float32)).contiguous() for n, t in tensors.items()}
    save_file(stored, path, metadata=metadata)


def read(path: Path) -> tuple[str, dict[str, Tensor], Origin]:
    """Kind, tensors and origin of an edit file."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            found = metadata.get("format"), metadata.get("format_version")
            require(found[0] == FORMAT, f"edit {path}: no {FORMAT} file; give the edit.safetensors of an erasure", EditError)
            message = f"edit {path}: format version {found[1]}, this library reads {FORMAT_VERSION}; update unconcept"
            require(found[1] == FORMAT_VERSION, message, EditError)
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, SafetensorError, ValueError) as error:
        raise EditError(f"edit {path}: {error}; the file is missing, cut short or damaged") from None
    try:
        origin = Origin.from_json(metadata.get("origin", ""))
        for name, tensor in tensors.items():
            sound = tensor.is_floating_point() and bool(torch.isfinite(tensor).all())
            require(sound, f"{name} holds something that is no finite number", EditError)
    except EditError as error:
        raise EditError(f"edit {path}: {error}; the file is damaged: make the edit again") from None
    return metadata.get("kind", ""), tensors, origin
