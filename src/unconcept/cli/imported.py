"""`unconcept import`: a LoRA eraser made elsewhere as an edit file."""

from pathlib import Path
from typing import Annotated

import typer

from . import options
from .console import exit_codes, quiet_libraries


def import_(
    lora: Annotated[
        Path, typer.Argument(metavar="FILE", help="LoRA of kohya's or diffusers' form, .diff patch, or PEFT folder.")
    ],
    concepts: Annotated[
        list[str], typer.Argument(help="What it was made to erase; one or several.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="Edit file to write; it must not exist.")],
    model: options.ModelFlag = "moji",
    method: Annotated[str, typer.Option(help="What made it, for the record.")] = "imported",
    anchor: Annotated[
        list[str] | None, typer.Option(help="What a concept is to be read as: one, or one a concept.")
    ] = None,
    retain: Annotated[list[str] | None, typer.Option(help="Text that was not to change; repeatable.")] = None,
    kind: options.KindFlag = None,
    overwrite: options.OverwriteFlag = False,
) -> None:
    """Make a LoRA eraser an edit, to be drawn with, evaluated, attacked and exported like any other."""
    with exit_codes():
        quiet_libraries()
        from ..core.output_folder import output_file
        from ..core.request import RequestSpec
        from ..core.settings import build_settings
        from ..jobs.import_edit import import_edit

        asked = {"targets": tuple(concepts), "anchors": anchor, "retain": retain, "kind": kind}
        ask = build_settings(RequestSpec, {name: value for name, value in asked.items() if value is not None}, "option")
        with output_file(out, overwrite) as place:
            edit = import_edit(lora, model, ask, method)
            edit.save(place)
        print(f"{len(edit.names)} weights -> {out}")
