"""`unconcept apply`: bake an edit into a diffusers folder or a single file."""

from pathlib import Path
from typing import Annotated

import typer

from . import options
from .console import speaking


def apply(
    edit: Annotated[Path, typer.Argument(help="edit.safetensors of an erasure.")],
    out: Annotated[Path, typer.Option(help="Folder to write, or file where the model is one; it must not exist.")],
    model: options.Model = "moji",
    strength: options.Strength = 1.0,
    static: options.Static = False,
    overwrite: options.Overwrite = False,
) -> None:
    """Write a checkpoint with the edit in its weights: what loads the model loads it."""
    with speaking():
        from ..core.errors import OutputError, require
        from ..core.output_folder import building, writing
        from ..edits import load_edit
        from ..edits import static as at_full_weight
        from ..edits.export.bake import bake
        from ..models import find_model

        loaded, source = load_edit(edit), find_model(model)
        loaded = at_full_weight(loaded) if static else loaded
        is_file = source.is_file()
        require(not is_file or out.suffix == ".safetensors", f"{model} is one file: --out {out} must end in .safetensors", OutputError)
        identity = {"edit": loaded.hash, "model": model, "strength": strength}
        with writing(out, overwrite) if is_file else building(out, identity, overwrite) as place:
            left_out = bake(loaded.scaled(strength), source, place)
        for name in left_out:
            print(f"left out, it holds the unedited model: {name}")
        print(f"{len(loaded.names)} weights changed -> {out}")
