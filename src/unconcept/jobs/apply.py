"""Bakes an edit into the weights of a diffusers folder or a single file."""

from dataclasses import dataclass
from pathlib import Path

from ..core.errors import OutputError, require
from ..core.output_folder import atomic_folder, output_file
from ..edits import open_edit
from ..edits.export.bake import bake
from ..models import find_model
from .command_options import ApplyOptions
from .edit_base import base_of_edits


@dataclass(frozen=True)
class ApplyOutcome:
    """The result of `apply`."""

    out: Path
    weights: int
    """Number of changed weights."""
    left_out: tuple[str, ...]
    """Files that hold the unedited model and so were not copied."""


def apply(options: ApplyOptions) -> ApplyOutcome:
    """Write a checkpoint with the edit in its weights; any tool that loads the model loads it."""
    edit = open_edit(options.edit)
    model = base_of_edits([options.edit], options.model)
    source = find_model(model)
    edit = edit.static() if options.static else edit
    out, is_file = options.out, source.is_file()
    require(
        not is_file or out.suffix == ".safetensors",
        f"{model} is one file: --out {out} must end in .safetensors",
        OutputError,
    )
    identity = {"edit": edit.hash, "model": model, "strength": options.strength}
    place = output_file(out, options.overwrite) if is_file else atomic_folder(out, identity, options.overwrite)
    with place as target:
        left_out = bake(edit.scaled(options.strength, options.amplify), source, target)
    return ApplyOutcome(out, len(edit.names), left_out)
