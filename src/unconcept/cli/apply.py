"""`unconcept apply`: bake an edit into a diffusers folder or a single file."""

from pathlib import Path
from typing import Annotated

import typer

from . import options
from .console import exit_codes


def apply(
    edit: Annotated[Path, typer.Argument(help="edit.safetensors of an erasure.")],
    out: Annotated[Path, typer.Option(help="Folder to write, or file where the model is one; it must not exist.")],
    model: options.ModelFlag = "moji",
    strength: options.StrengthFlag = 1.0,
    static: options.StaticFlag = False,
    overwrite: options.OverwriteFlag = False,
) -> None:
    """Write a checkpoint with the edit in its weights: what loads the model loads it."""
    with exit_codes():
        from ..core.errors import OutputError, require
        from ..core.output_folder import atomic_folder, output_file
        from ..edits import load_edit
        from ..edits import static_edit as at_full_weight
        from ..edits.export.bake import bake
        from ..models import find_model

        loaded, source = load_edit(edit), find_model(model)
        loaded = at_full_weight(loaded) if static else loaded
        is_file = source.is_file()
        require(
            not is_file or out.suffix == ".safetensors",
            f"{model} is one file: --out {out} must end in .safetensors",
            OutputError,
        )
        identity = {"edit": loaded.hash, "model": model, "strength": strength}
        with output_file(out, overwrite) if is_file else atomic_folder(out, identity, overwrite) as place:
            left_out = bake(loaded.scaled(strength), source, place)
        for name in left_out:
            print(f"left out, it holds the unedited model: {name}")
        print(f"{len(loaded.names)} weights changed -> {out}")
