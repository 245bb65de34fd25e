"""`unconcept export`: an edit as files that other tools load."""

from pathlib import Path
from typing import Annotated

import typer

from . import options
from .console import exit_codes, quiet_libraries


def export(
    edit: Annotated[Path, typer.Argument(help="edit.safetensors of an erasure.")],
    to: Annotated[
        str, typer.Option(help="diffusers or peft (a folder); single-file, kohya or comfyui (one .safetensors).")
    ],
    out: Annotated[Path, typer.Option(help="Folder or file to write; it must not exist.")],
    model: options.ModelFlag = "moji",
    strength: options.StrengthFlag = 1.0,
    static: options.StaticFlag = False,
    dtype: Annotated[
        str, typer.Option(help="auto (as the model's weights), float32, bfloat16 or float16: what is written.")
    ] = "auto",
    rank: Annotated[
        int | None,
        typer.Option(help="Largest rank of a LoRA.  [default: the edit's own, 64 if it is dense]", show_default=False),
    ] = None,
    overwrite: options.OverwriteFlag = False,
) -> None:
    """Write an edit for diffusers, A1111, Forge, ComfyUI or PEFT."""
    with exit_codes():
        quiet_libraries()
        from ..core.output_folder import atomic_folder, output_file
        from ..core.registry import suggest
        from ..edits import load_edit
        from ..edits import static_edit as at_full_weight
        from ..edits.export.export import EXPORT_TARGETS, FOLDER_TARGETS, require_export_path
        from ..edits.export.export import export_edit as write
        from ..models import find_model
        from ..models.loading import find_device, find_dtype

        target = suggest(to, {name: name for name in EXPORT_TARGETS}, "export")
        require_export_path(target, out)
        kept = None if dtype == "auto" else find_dtype(dtype, find_device("cpu"))
        loaded, source = load_edit(edit).scaled(strength), find_model(model)
        loaded = at_full_weight(loaded) if static else loaded
        identity = {"edit": loaded.hash, "model": model, "to": to, "dtype": dtype, "rank": rank}
        with (
            atomic_folder(out, identity, overwrite) if target in FOLDER_TARGETS else output_file(out, overwrite)
        ) as place:
            written = write(loaded, source, target, place, kept, rank)
        print(f"{written} -> {out}")
