"""Imports LoRA erasers from other tools as edits, so that they can be evaluated, attacked and exported."""

import hashlib
from pathlib import Path

from ..core.output_folder import output_file
from ..core.request import RequestSpec
from ..core.settings import build_settings
from ..edits import Edit
from ..edits.export.lora_reader import read_lora
from ..edits.origin import origin_for
from ..erasing.request_defaults import resolve_request
from ..models import find_model, open_model
from .command_options import ImportOptions
from .options import texts


def import_to_file(options: ImportOptions) -> Edit:
    """Convert a LoRA eraser to an edit file, which can be sampled, evaluated, attacked and exported like any other."""
    typed = {
        "targets": texts(options.concepts),
        "anchors": None if options.anchors is None else texts(options.anchors),
        "retain": None if options.retain is None else texts(options.retain),
        "kind": options.kind,
    }
    given = {name: value for name, value in typed.items() if value is not None}
    request = build_settings(RequestSpec, given, "option")
    with output_file(options.out, options.overwrite) as place:
        edit = import_edit(options.lora, options.model, request, options.method)
        edit.save(place)
    return edit


def import_edit(path: Path, model: str, ask: RequestSpec, method: str) -> Edit:
    """Read a LoRA file as an edit of `model` that erases the concepts in `ask`. The header records the file's name and
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
