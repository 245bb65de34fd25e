"""Imports what other tools made of a model as an edit, so that it can be evaluated, attacked and exported."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from ..core.output_folder import output_file
from ..core.request import RequestSpec
from ..core.settings import build_settings
from ..edits import Edit
from ..edits.export.foreign import read_foreign_edit
from ..edits.origin import origin_for
from ..erasing.request_defaults import resolve_request
from ..models import find_model, open_model
from ..models.text.text_identity import TokenTextKey
from .command_options import ImportOptions
from .edit_base import remember_base
from .options import texts


@dataclass(frozen=True)
class ImportOutcome:
    """The result of `import`."""

    edit: Edit
    notes: tuple[str, ...]
    """How the files were read, where that is not plain."""


def import_to_file(options: ImportOptions) -> ImportOutcome:
    """Convert a LoRA or an edited checkpoint to an edit file, which can be evaluated and exported like any other."""
    request = imported_request(options)
    with output_file(options.out, options.overwrite) as place:
        found = import_edit(options.source, options.model, request, options.method)
        found.edit.save(place)
    remember_base(found.edit, str(options.model))
    return found


def imported_request(options: ImportOptions) -> RequestSpec:
    """What the files were made to erase, as the user says."""
    typed = {
        "targets": texts(options.concepts),
        "anchors": None if options.anchors is None else texts(options.anchors),
        "retain": None if options.retain is None else texts(options.retain),
        "kind": options.kind,
    }
    return build_settings(RequestSpec, {name: value for name, value in typed.items() if value is not None}, "option")


def import_edit(path: Path, model: str, ask: RequestSpec, method: str) -> ImportOutcome:
    """Read files of another tool as an edit of `model` that erases the concepts in `ask`.

    The header records their name and hash, and how they were read.
    """
    base = open_model(model, "cpu", "float32")
    request = resolve_request(ask, model, folds_case=TokenTextKey.of(base).folds_case).request
    place = path if path.exists() or path.suffix else _on_hub(path)
    found = read_foreign_edit(place, find_model(model))
    settings: dict[str, object] = {"file": path.name, "sha256": _digest(place)}
    if found.notes:
        settings["notes"] = list(found.notes)
    origin = origin_for(found.edit, base, request, method, settings)
    return ImportOutcome(found.edit.stamped(origin), found.notes)


def _on_hub(path: Path) -> Path:
    """The folder of a Hub id; the path itself if it is none."""
    return find_model(path.as_posix()) if path.as_posix().count("/") == 1 else path


def _digest(path: Path) -> str:
    """SHA-256 over the weight files, in the order of their names."""
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*.safetensors")) if path.is_dir() else [path]:
        with file.open("rb") as data:
            while block := data.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
