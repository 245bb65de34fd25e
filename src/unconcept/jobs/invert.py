"""Inverts a picture: finds the latents from which a model, with or without edits, draws it again."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ..core.output_folder import atomic_folder
from ..edits import Edit, open_edit
from ..edits.base import validate_strength
from ..evaluation.sampling import DrawSpec, require_text_length, spec_for
from ..evaluation.starts import inversion_kind, invert_picture
from ..models import ModelView, open_model
from ..models.diffusion.vae import require_picture_size
from ..models.images import read_picture
from ..prompts.safety import require_drawable
from ..report.images import to_image
from .command_options import InvertOptions
from .edit_base import base_of_edits
from .options import paths

INVERTED_FILE, REDRAWN_FILE = "inverted.safetensors", "redrawn.png"


@dataclass(frozen=True)
class InvertOutcome:
    """The result of `invert`: the folder, and how far the picture drawn again is from the given one."""

    out: Path
    error: float
    """Root mean square difference of pixels in [0, 1]."""


@dataclass(frozen=True)
class OpenInvert:
    """A picture to invert, with the model and the edits."""

    model: ModelView
    edits: Sequence[Edit]
    picture: Tensor
    spec: DrawSpec
    identity: dict[str, object]
    """What identifies the output: an interrupted run with the same identity continues."""


def open_invert(options: InvertOptions) -> OpenInvert:
    """Open model, edits and picture. Bad input raises `UsageError`."""
    validate_strength(options.strength, options.amplify)
    require_drawable([options.prompt])
    as_made = [open_edit(path) for path in paths(options.edits)]
    edits = [edit.scaled(options.strength, options.amplify) for edit in as_made]
    base = base_of_edits(paths(options.edits), options.model)
    picture = read_picture(options.picture)
    model = open_model(base, options.device, options.dtype)
    require_text_length(model, [options.prompt])
    spec = spec_for(base, options.steps, options.guidance_scale)
    inversion_kind(model, options.by)
    require_picture_size(model, picture[None], str(options.picture))
    identity: dict[str, object] = {
        "picture": str(options.picture),
        "prompt": options.prompt,
        "by": options.by,
        "edit": [edit.hash for edit in edits],
        "spec": str(spec),
        "seed": options.seed,
        "model": base,
    }
    return OpenInvert(model, edits, picture, spec, identity)


def invert(options: InvertOptions) -> InvertOutcome:
    """Write `inverted.safetensors` for `sample --from`, and the picture drawn again from it."""
    opened = open_invert(options)
    model, spec = opened.model, opened.spec
    with atomic_folder(options.out, opened.identity, options.overwrite) as folder, ExitStack() as applied:
        for edit in opened.edits:
            applied.enter_context(edit.applied(model))
        found = invert_picture(model, options.picture, options.prompt, spec, options.by, options.seed)
        found.save(folder / INVERTED_FILE)
        drawn = model.sample([options.prompt], found.start, spec.steps, spec.guidance_scale, found.sampler)[0]
        to_image(drawn).save(folder / REDRAWN_FILE)
    return InvertOutcome(options.out, float((drawn - opened.picture).square().mean().sqrt()))
