"""`unconcept apply`: bake an edit into a diffusers folder."""

from pathlib import Path
from typing import Annotated

import typer

from . import options
from .console import speaking


def apply(
    edit: Annotated[Path, typer.Argument(help="edit.safetensors of an erasure.")],
    out: options.Out,
    model: options.Model = "moji",
    strength: options.Strength = 1.0,
    overwrite: options.Overwrite = False,
) -> None:
    """Write a checkpoint with the edit in its weights; stock diffusers loads it."""
    with speaking():
        from ..edits import bake, load_edit
        from ..evaluation.folder import building
        from ..models import find_model

        loaded, source = load_edit(edit), find_model(model)
        with building(out, {"edit": loaded.hash, "model": model, "strength": strength}, overwrite) as folder:
            bake(loaded.scaled(strength), source, folder)
        print(f"{len(loaded.names)} weights changed -> {out}")
