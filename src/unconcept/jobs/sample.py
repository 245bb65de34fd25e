"""Draws prompts, or inputs that an attack found, with or without edits."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from ..core.errors import RequestError, require
from ..core.output_folder import atomic_folder
from ..core.progress import ProgressCallback, TickCallback, ignore_progress
from ..edits import Edit, open_edit
from ..edits.base import validate_strength
from ..edits.weights import base_note
from ..evaluation.attacks.inputs import AdversarialInput, hash_input, load_adversarial, sample_adversarial
from ..evaluation.sampling import DrawSpec, StartMaker, draw_prompts, require_text_length, spec_for
from ..evaluation.starts import load_inverted, start_from_picture
from ..models import ModelView, open_model
from ..prompts.checks import Prompt
from ..prompts.safety import require_drawable
from ..report.images import to_image
from .command_options import SamplingOptions
from .edit_base import base_of_edits
from .options import paths, texts

DEFAULT_LEVEL = 0.6  # of image-to-image: a picture's layout stays, its objects change


@dataclass(frozen=True)
class SampleOutcome:
    """The result of `sample`: the folder and the number of pictures."""

    out: Path
    count: int
    notes: tuple[str, ...] = ()
    """What there is to say of the base of each edit: that it is a quantised copy."""


@dataclass(frozen=True)
class OpenSample:
    """Prompts or found inputs, with the model and the edits that draw them."""

    model: ModelView
    edits: Sequence[Edit]
    prompts: Sequence[Prompt]
    inputs: Sequence[AdversarialInput]
    spec: DrawSpec
    start: StartMaker
    identity: dict[str, object]
    """What identifies the output: an interrupted run with the same identity continues."""


def open_sample(options: SamplingOptions) -> OpenSample:
    """Open model and edits. Bad input raises `UsageError`."""
    prompts, found = texts(options.prompts), options.found
    validate_strength(options.strength, options.amplify)
    require(bool(prompts) != bool(found), "give either prompts or --found FILE, not both or none", RequestError)
    message = "--from goes with prompts, and --level with --from PICTURE: leave the one without the other out"
    require(bool(prompts) if options.source else options.level is None, message, RequestError)
    require_drawable(prompts)
    as_made = [open_edit(path) for path in paths(options.edits)]
    edits = [edit.scaled(options.strength, options.amplify) for edit in as_made]
    base = base_of_edits(paths(options.edits), options.model)
    model = open_model(base, options.device, options.dtype, may_be_fixed=True)
    require_text_length(model, prompts)
    spec = spec_for(base, options.steps, options.guidance_scale, options.batch_size)
    spec = spec if options.sampler is None else replace(spec, sampler=options.sampler)
    spec, start = _start(model, options, spec)
    inputs = list(load_adversarial(found).values()) if found else []
    identity: dict[str, object] = {
        "prompts": list(prompts) or None,
        "found": [hash_input(one.input) for one in inputs],
        "edit": [edit.hash for edit in edits],
        "spec": str(spec),
        "seed": options.seed,
        "from": None if options.source is None else [str(options.source), options.level],
        "model": base,
    }
    asked = [Prompt(text, options.seed + i) for i, text in enumerate(prompts)]
    return OpenSample(model, edits, asked, inputs, spec, start, identity)


def sample(options: SamplingOptions, progress: ProgressCallback = ignore_progress) -> SampleOutcome:
    """Write one PNG per prompt; the same seed gives the same noise with and without an edit."""
    opened = open_sample(options)
    model, asked = opened.model, opened.prompts
    with atomic_folder(options.out, opened.identity, options.overwrite) as folder, ExitStack() as applied:
        for edit in opened.edits:
            applied.enter_context(edit.applied(model))
        if opened.inputs:
            pictures = sample_adversarial(model, opened.inputs, opened.spec)
        else:
            pictures = draw_prompts(model, asked, opened.spec, _counting(progress, len(asked)), opened.start)
        for i, picture in enumerate(pictures):
            to_image(picture).save(folder / f"{i:03d}.png")
    notes = dict.fromkeys(note for edit in opened.edits if (note := base_note(edit, model)))
    return SampleOutcome(options.out, len(pictures), tuple(notes))


def _start(model: ModelView, options: SamplingOptions, spec: DrawSpec) -> tuple[DrawSpec, StartMaker]:
    """Sampler settings, and what each picture starts from: noise, a picture at a level, or an inverted picture."""
    source = options.source
    if source is None:
        return spec, lambda noise: noise
    if source.suffix != ".safetensors":
        level = DEFAULT_LEVEL if options.level is None else options.level
        return spec, start_from_picture(model, source, level, spec)
    message = f"--level and --sampler go with a picture, and {source.name} is an inverted one: leave them out"
    require(options.level is None and options.sampler is None, message)
    inverted = load_inverted(source)
    return inverted.spec(spec), inverted.of


def _counting(progress: ProgressCallback, total: int) -> TickCallback:
    """Make a `tick` function that reports the total number of pictures drawn so far."""
    drawn = 0.0

    def tick(pictures: float) -> None:
        nonlocal drawn
        drawn += pictures
        progress("draw", int(round(drawn, 6)), total)

    return tick
