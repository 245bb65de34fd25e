"""`unconcept sample`: draw prompts, with or without an edit."""

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from . import options
from .console import exit_codes, progress, quiet_libraries


def sample(
    out: options.OutFlag,
    prompts: Annotated[list[str] | None, typer.Argument(help="What to draw.", show_default=False)] = None,
    found: Annotated[
        Path | None, typer.Option(help="Draw what an attack found: a file of its `found/` folder.", show_default=False)
    ] = None,
    model: options.ModelFlag = "moji",
    edit: options.EditFilesFlag = None,
    strength: options.StrengthFlag = 1.0,
    seed: options.SeedFlag = 0,
    steps: Annotated[int, typer.Option(min=1, max=1000, help="Denoising steps.")] = 20,
    guidance_scale: Annotated[float | None, typer.Option(help="Guidance; the default is the model's own.")] = None,
    batch_size: options.BatchSizeFlag = 24,
    device: options.DeviceFlag = "auto",
    dtype: options.DtypeFlag = "auto",
    overwrite: options.OverwriteFlag = False,
    quiet: options.QuietFlag = False,
) -> None:
    """Write one PNG a prompt; the same seed gives the same noise with and without an edit."""
    with exit_codes():
        quiet_libraries()
        from ..core.errors import RequestError, require
        from ..core.output_folder import atomic_folder
        from ..edits import load_edit
        from ..evaluation.attacks.inputs import hash_input, load_adversarial, sample_adversarial
        from ..evaluation.sampling import draw_prompts, require_text_length, spec_for
        from ..models import open_model
        from ..prompts.checks import Prompt
        from ..report.images import to_image

        require(
            bool(prompts) != bool(found), "nothing to draw, or two things: give prompts, or --found FILE", RequestError
        )
        loaded = [load_edit(path).scaled(strength) for path in edit or []]
        view = open_model(model, device, dtype)
        require_text_length(view, prompts or [])
        spec = spec_for(model, steps, guidance_scale, batch_size)
        asked = [Prompt(text, seed + i) for i, text in enumerate(prompts or [])]
        replayed = list(load_adversarial(found).values()) if found else []
        identity = {
            "prompts": prompts,
            "found": [hash_input(one.input) for one in replayed],
            "edit": [one.hash for one in loaded],
        }
        with (
            atomic_folder(out, {**identity, "spec": str(spec), "seed": seed, "model": model}, overwrite) as folder,
            progress(quiet) as tell,
        ):
            drawn = 0

            def tick(count: int) -> None:
                nonlocal drawn
                drawn += count
                tell("draw", drawn, len(asked))

            with ExitStack() as stack:
                for one in loaded:
                    stack.enter_context(one.applied(view))
                pictures = (
                    sample_adversarial(view, replayed, spec) if replayed else draw_prompts(view, asked, spec, tick)
                )
            for i, picture in enumerate(pictures):
                to_image(picture).save(folder / f"{i:03d}.png")
        print(f"{len(pictures)} pictures -> {out}")
