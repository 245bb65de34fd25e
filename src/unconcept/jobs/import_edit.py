"""LoRA erasers made elsewhere, stamped like our own edits, so that they can be measured, attacked and exported."""

import hashlib
from pathlib import Path

from ..core.request import RequestSpec
from ..edits import Edit
from ..edits.export.lora_reader import read_lora
from ..erasing.origin import origin_for
from ..erasing.request_defaults import resolve_request
from ..models import find_model, open_model


def import_edit(path: Path, model: str, ask: RequestSpec, method: str) -> Edit:
    """The edit that a LoRA file is to `model`, said to erase what `ask` names; the header keeps the file's name and
    hash.
    """
    request = resolve_request(ask, model).request
    edit = read_lora(path, find_model(model))
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*.safetensors")) if path.is_dir() else [path]:
        digest.update(file.read_bytes())
    return edit.stamped(
        origin_for(
            edit,
            open_model(model, "cpu", "float32"),
            request,
            method,
            {"file": path.name, "sha256": digest.hexdigest()},
        )
    )
