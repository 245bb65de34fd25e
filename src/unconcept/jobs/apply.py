"""Bakes an edit into the weights of a diffusers folder or a single file."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..core.errors import OutputError, SettingsError, require
from ..core.output_folder import atomic_folder, output_file
from ..edits import Edit, open_edit
from ..edits.export.bake import bake
from ..models import find_model
from .command_options import ApplyOptions
from .derivatives.transfer import TransferredEdit, transfer_edit
from .edit_base import base_of_edits


@dataclass(frozen=True)
class ApplyOutcome:
    """The result of `apply`."""

    out: Path
    weights: int
    """Number of changed weights."""
    left_out: tuple[str, ...]
    """Files that hold the unedited model and so were not copied."""


@dataclass(frozen=True)
class OpenApply:
    """An edit at its strength, and the model to write it into."""

    edit: Edit
    source: Path
    transfer: TransferredEdit | None
    """What the edit does on another base than its own; None on its own."""
    identity: dict[str, object]
    """What identifies the output: an interrupted run with the same identity continues."""


def open_apply(options: ApplyOptions) -> OpenApply:
    """Open the edit and find its model. Bad input raises `UsageError`."""
    edit, moved = open_edit(options.edit), None
    message = "--other-base needs the other model: name it, --model"
    require(options.model is not None or not options.other_base, message, SettingsError)
    model = base_of_edits([options.edit], options.model)
    source = find_model(model)
    edit = edit.static() if options.static else edit
    if options.other_base:
        moved = transfer_edit(edit, options.edit, model)
        edit = moved.edit
    message = f"{model} is one file: --out {options.out} must end in .safetensors"
    require(not source.is_file() or options.out.suffix == ".safetensors", message, OutputError)
    identity: dict[str, object] = {"edit": edit.hash, "model": model, "strength": options.strength}
    return OpenApply(edit.scaled(options.strength, options.amplify), source, moved, identity)


def apply(options: ApplyOptions, announce: Callable[[str], None] = lambda line: None) -> ApplyOutcome:
    """Write a checkpoint with the edit in its weights; any tool that loads the model loads it.

    `announce` is told what an edit does on another base than its own, before anything is written.
    """
    opened, out = open_apply(options), options.out
    if opened.transfer is not None:
        announce(opened.transfer.describe(str(options.model)))
    is_file = opened.source.is_file()
    place = output_file(out, options.overwrite) if is_file else atomic_folder(out, opened.identity, options.overwrite)
    with place as target:
        left_out = bake(opened.edit, opened.source, target)
    return ApplyOutcome(out, len(opened.edit.names), left_out)
