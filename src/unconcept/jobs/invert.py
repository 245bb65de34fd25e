"""Inverts a picture: finds the latents from which a model, with or without edits, draws it again."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from ..core.output_folder import atomic_folder
from ..edits import load_edit
from ..edits.base import validate_strength
from ..evaluation.sampling import require_text_length, spec_for
from ..evaluation.starts import invert_picture
from ..models import open_model
from ..models.images import read_picture
from ..prompts.safety import require_drawable
from ..report.images import to_image
from .command_options import InvertOptions
from .edit_base import base_of_edits
from .options import paths

INVERTED_FILE = "inverted.safetensors"


@dataclass(frozen=True)
class InvertOutcome:
    """The result of `invert`: the folder, and how far the picture drawn again is from the given one."""

    out: Path
    error: float
    """Root mean square difference of pixels in [0, 1]."""


def invert(options: InvertOptions) -> InvertOutcome:
    """Write `inverted.safetensors` for `sample --from`, and the picture drawn again from it."""
    validate_strength(options.strength, options.amplify)
    require_drawable([options.prompt])
    edits = [load_edit(path).scaled(options.strength, options.amplify) for path in paths(options.edits)]
    base = base_of_edits(paths(options.edits), options.model)
    picture = read_picture(options.picture)
    model = open_model(base, options.device, options.dtype)
    require_text_length(model, [options.prompt])
    spec = spec_for(base, options.steps, options.guidance_scale)
    identity = {
        "picture": str(options.picture),
        "prompt": options.prompt,
        "by": options.by,
        "edit": [edit.hash for edit in edits],
        "spec": str(spec),
        "seed": options.seed,
        "model": base,
    }
    with atomic_folder(options.out, identity, options.overwrite) as folder, ExitStack() as applied:
        for edit in edits:
            applied.enter_context(edit.applied(model))
        found = invert_picture(model, options.picture, options.prompt, spec, options.by, options.seed)
        found.save(folder / INVERTED_FILE)
        drawn = model.sample([options.prompt], found.start, spec.steps, spec.guidance_scale, found.sampler)[0]
        to_image(drawn).save(folder / "redrawn.png")
    return InvertOutcome(options.out, float((drawn - picture).square().mean().sqrt()))
