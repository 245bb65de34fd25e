"""Writes an edit as files that other tools load."""

from dataclasses import dataclass
from pathlib import Path

import torch

from ..core.output_folder import atomic_folder, output_file
from ..core.registry import suggest
from ..edits import Edit, open_edit
from ..edits.export.export import (
    EXPORT_TARGETS,
    FOLDER_TARGETS,
    ExportOutcome,
    ExportTarget,
    export_edit,
    require_export_path,
)
from ..models import find_model
from ..models.precision import named_dtype
from .command_options import ExportOptions
from .edit_base import base_of_edits


@dataclass(frozen=True)
class OpenExport:
    """An edit at its strength, the model that it was made for, and the form to write."""

    edit: Edit
    source: Path
    target: ExportTarget
    dtype: torch.dtype | None
    identity: dict[str, object]
    """What identifies the output: an interrupted run with the same identity continues."""


def open_export(options: ExportOptions) -> OpenExport:
    """Open the edit and find its model. Bad input raises `UsageError`."""
    target = suggest(options.to, {name: name for name in EXPORT_TARGETS}, "export")
    require_export_path(target, options.out)
    dtype = None if options.dtype == "auto" else named_dtype(options.dtype)
    edit = open_edit(options.edit)
    model = base_of_edits([options.edit], options.model)
    source = find_model(model)
    edit = edit.scaled(options.strength, options.amplify)
    edit = edit.static() if options.static else edit
    told = {"model": model, "to": options.to, "dtype": options.dtype, "rank": options.rank}
    return OpenExport(edit, source, target, dtype, {"edit": edit.hash, **told})


def export(options: ExportOptions) -> ExportOutcome:
    """Write an edit for diffusers, A1111, Forge, ComfyUI or PEFT."""
    opened = open_export(options)
    if opened.target in FOLDER_TARGETS:
        place = atomic_folder(options.out, opened.identity, options.overwrite)
    else:
        place = output_file(options.out, options.overwrite)
    with place as written:
        return export_edit(opened.edit, opened.source, opened.target, written, opened.dtype, options.rank)
