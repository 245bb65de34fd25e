"""Writes an edit as files that other tools load."""

from ..core.output_folder import atomic_folder, output_file
from ..core.registry import suggest
from ..edits import open_edit
from ..edits.export.export import EXPORT_TARGETS, FOLDER_TARGETS, ExportOutcome, export_edit, require_export_path
from ..models import find_model
from ..models.precision import named_dtype
from .command_options import ExportOptions
from .edit_base import base_of_edits


def export(options: ExportOptions) -> ExportOutcome:
    """Write an edit for diffusers, A1111, Forge, ComfyUI or PEFT."""
    target = suggest(options.to, {name: name for name in EXPORT_TARGETS}, "export")
    require_export_path(target, options.out)
    dtype = None if options.dtype == "auto" else named_dtype(options.dtype)
    edit = open_edit(options.edit)
    model = base_of_edits([options.edit], options.model)
    source = find_model(model)
    edit = edit.scaled(options.strength, options.amplify)
    edit = edit.static() if options.static else edit
    told = {"model": model, "to": options.to, "dtype": options.dtype, "rank": options.rank}
    if target in FOLDER_TARGETS:
        place = atomic_folder(options.out, {"edit": edit.hash, **told}, options.overwrite)
    else:
        place = output_file(options.out, options.overwrite)
    with place as written:
        return export_edit(edit, source, target, written, dtype, options.rank)
