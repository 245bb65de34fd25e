"""`unconcept sample`: draw prompts, with or without an edit."""

from contextlib import nullcontext
from typing import Annotated

import typer

from . import options
from .console import progress, quiet_libraries, speaking


def sample(
    prompts: Annotated[list[str], typer.Argument(help="What to draw.")],
    out: options.Out,
    model: options.Model = "moji",
    edit: options.EditFile = None,
    strength: options.Strength = 1.0,
    seed: options.Seed = 0,
    steps: Annotated[int, typer.Option(min=1, max=1000, help="Denoising steps.")] = 20,
    guidance_scale: Annotated[float | None, typer.Option(help="Guidance; the default is the model's own.")] = None,
    batch_size: options.BatchSize = 24,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
) -> None:
    """Write one PNG a prompt; the same seed gives the same noise with and without an edit."""
    with speaking():
        quiet_libraries()
        from ..edits import load_edit
        from ..evaluation.folder import building
        from ..evaluation.generate import draw, spec_for
        from ..evaluation.pictures import to_image
        from ..evaluation.prompts import Prompt
        from ..models import open_model

        loaded = load_edit(edit).scaled(strength) if edit else None
        view = open_model(model, device, dtype)
        spec = spec_for(model, steps, guidance_scale, batch_size)
        asked = [Prompt(text, seed + i) for i, text in enumerate(prompts)]
        identity = {"prompts": prompts, "edit": loaded.hash if loaded else None, "spec": str(spec), "seed": seed, "model": model}
        with building(out, identity, overwrite) as folder, progress(quiet) as tell:
            drawn = 0

            def tick(count: int) -> None:
                nonlocal drawn
                drawn += count
                tell("draw", drawn, len(asked))

            with loaded.applied(view) if loaded else nullcontext():
                pictures = draw(view, asked, spec, tick)
            for i, picture in enumerate(pictures):
                to_image(picture).save(folder / f"{i:03d}.png")
        print(f"{len(prompts)} pictures -> {out}")
