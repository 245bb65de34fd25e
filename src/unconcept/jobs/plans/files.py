"""The plans of `apply`, `export`, `import`, `sample` and `invert`."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from math import prod

from torch import Tensor

from ...core.output_folder import require_free_output, require_usable_folder
from ...edits import Edit
from ...edits.export.bake import read_bakeable_weights
from ...edits.export.base_weights import BaseWeights
from ...edits.export.export import FOLDER_TARGETS, LORA_TARGETS, read_exportable_weights
from ...edits.export.lora_factors import lora_factors
from ...evaluation.starts import inversion_kind
from ...models import ModelView
from ...models.checkpoint.locations import has_part, tensor_locations
from ...models.checkpoint.safetensors_io import TensorLocation, tensor_shapes
from ...models.checkpoint.weight_files import WEIGHT_PARTS
from ..apply import open_apply
from ..command_options import ApplyOptions, ExportOptions, ImportOptions, InvertOptions, SamplingOptions
from ..export import OpenExport, open_export
from ..import_edit import import_edit, imported_request
from ..invert import INVERTED_FILE, REDRAWN_FILE, open_invert
from ..options import paths
from ..sample import open_sample
from .facts import edit_bytes, listed, model_facts
from .pictures import DrawingPlan, png_bytes
from .plan import Plan, PlannedStep, planned_file, size_of
from .timing import grey_picture, load_networks, time_drawing, timed_once

_DISK_RATE = 300e6  # bytes a second, of copying large files (inferred)


def plan_apply(options: ApplyOptions) -> Plan:
    """Plan a checkpoint with the edit in its weights."""
    opened = open_apply(options)
    if opened.source.is_file():
        require_free_output(options.out, options.overwrite)
    else:
        require_usable_folder(options.out, opened.identity, options.overwrite)
    checking, _ = timed_once(lambda: read_bakeable_weights(opened.edit, opened.source))
    size = size_of(opened.source)
    steps = (
        PlannedStep("check that the model is the edit's", checking, "it was checked"),
        PlannedStep(
            f"copy {opened.source} and change {len(opened.edit.names)} weights",
            checking + size / _DISK_RATE,
            "reading them took as long as checking; copying is taken to run at 300 MB/s",
        ),
    )
    facts = {"edit": f"{options.edit}, which {opened.edit.describe()}", "model": str(opened.source)}
    return Plan(facts, steps, (planned_file(options.out, size),))


def plan_export(options: ExportOptions) -> Plan:
    """Plan the files of an export."""
    opened = open_export(options)
    if opened.target in FOLDER_TARGETS:
        require_usable_folder(options.out, opened.identity, options.overwrite)
    else:
        require_free_output(options.out, options.overwrite)
    checking, base = timed_once(
        lambda: read_exportable_weights(opened.edit, opened.source, opened.target, opened.dtype, options.rank)
    )
    factoring, size = _export_cost(opened, base, options.rank)
    steps = (
        PlannedStep("check that the model is the edit's", checking, "it was checked"),
        PlannedStep(
            f"write {opened.target}: {len(opened.edit.names)} weights changed",
            checking + factoring + size / _DISK_RATE,
            "reading them took as long as checking; writing is taken to run at 300 MB/s",
        ),
    )
    facts = {"edit": f"{options.edit}, which {opened.edit.describe()}", "model": str(opened.source)}
    return Plan(facts, steps, (planned_file(options.out, size),))


def _export_cost(opened: OpenExport, base: BaseWeights, rank: int | None) -> tuple[float, int]:
    """Seconds of factoring, by one weight, and the size of what an export writes, about."""
    shapes = tensor_shapes(base.places)
    if opened.target in LORA_TARGETS:
        return _lora_cost(opened, base, rank, shapes)
    if opened.target == "comfyui":
        return 0.0, _itemsize(opened, base) * sum(map(prod, shapes.values()))
    if opened.target == "diffusers" and opened.dtype is None:
        return 0.0, size_of(opened.source)
    parts = [part for part in WEIGHT_PARTS if has_part(opened.source, part)]
    return 0.0, sum(_part_bytes(opened, tensor_locations(opened.source, part)) for part in parts)


def _lora_cost(
    opened: OpenExport, base: BaseWeights, rank: int | None, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[float, int]:
    """Factor one weight: it takes as long as the product of its sides and the smaller of them tells."""
    sides = {name: (shape[0], prod(shape[1:])) for name, shape in shapes.items()}
    volumes = {name: rows * columns * min(rows, columns) for name, (rows, columns) in sides.items()}
    first = next(iter(base.weights))
    weights = {first: base.weights[first]}
    seconds, found = timed_once(lambda: lora_factors(opened.edit, weights, opened.dtype, rank))
    down = found.pairs[first][1]
    numbers = sum(min(down.shape[0], *pair) * sum(pair) for pair in sides.values())
    return seconds * sum(volumes.values()) / volumes[first], down.element_size() * numbers


def _itemsize(opened: OpenExport, base: BaseWeights) -> int:
    return opened.dtype.itemsize if opened.dtype else next(iter(base.weights.values())).element_size()


def _part_bytes(opened: OpenExport, places: Mapping[str, TensorLocation]) -> int:
    if opened.dtype is None:
        files = {place.file for place in places.values()}
        return sum(map(size_of, files))
    return opened.dtype.itemsize * sum(map(prod, tensor_shapes(places).values()))


def plan_import(options: ImportOptions) -> Plan:
    """Plan an import: the files are read and compared as the import does, and what was found is thrown away."""
    request = imported_request(options)
    require_free_output(options.out, options.overwrite)
    seconds, found = timed_once(lambda: import_edit(options.source, options.model, request, options.method))
    size = edit_bytes(found.edit)
    assert size is not None
    steps = (
        PlannedStep(f"read {options.source} and compare it with {options.model}", seconds, "it was read"),
        PlannedStep(f"write {len(found.edit.names)} weights", size / _DISK_RATE, "writing is taken to run at 300 MB/s"),
    )
    facts = {"targets": listed(request.targets), "edit": f"it {found.edit.describe()}"}
    facts |= {f"note {number}": note for number, note in enumerate(found.notes, 1)}
    return Plan(facts, steps, (planned_file(options.out, size),))


def plan_sample(options: SamplingOptions) -> Plan:
    """Plan pictures of prompts or of found inputs."""
    opening, opened = timed_once(lambda: open_sample(options))
    require_usable_folder(options.out, opened.identity, options.overwrite)
    model, count = opened.model, len(opened.inputs) or len(opened.prompts)
    with ExitStack() as applied:
        loading, like = timed_once(lambda: _loaded(model, opened.edits, applied))
        timing = time_drawing(model, opened.spec, count)
    drawing = DrawingPlan(opened.spec, ((count, timing),), 0, 0, None, 0.0, like.numel())
    steps = (PlannedStep(f"open {model.name}", opening + loading, "it was opened"), drawing.steps()[0])
    facts = {**model_facts(model), "edits": listed([str(path) for path in paths(options.edits)])}
    return Plan(facts, steps, (planned_file(options.out, count * drawing.png_bytes),))


def plan_invert(options: InvertOptions) -> Plan:
    """Plan the inversion of a picture, and the picture drawn again."""
    opening, opened = timed_once(lambda: open_invert(options))
    require_usable_folder(options.out, opened.identity, options.overwrite)
    model, kind = opened.model, inversion_kind(opened.model, options.by)
    with ExitStack() as applied:
        loading, like = timed_once(lambda: _loaded(model, opened.edits, applied))
        once = time_drawing(model, opened.spec, 1).seconds(1, opened.spec.steps)
    basis = "a few steps were timed"
    steps = (
        PlannedStep(f"open {model.name}", opening + loading, "it was opened"),
        PlannedStep(f"invert {options.picture} in {opened.spec.steps} steps by {kind}", once, basis),
        PlannedStep("draw it again", once, basis),
    )
    kept = opened.spec.steps + 1 if kind == "edit-friendly" else 1
    files = (
        planned_file(options.out / INVERTED_FILE, 4 * kept * prod(model.latent_shape)),
        planned_file(options.out / REDRAWN_FILE, png_bytes(like.numel())),
    )
    return Plan({**model_facts(model), "edits": listed([str(path) for path in paths(options.edits)])}, steps, files)


def _loaded(model: ModelView, edits: Sequence[Edit], applied: ExitStack) -> Tensor:
    """Load the networks, with the edits; return a picture of their size."""
    load_networks(model)
    for edit in edits:
        applied.enter_context(edit.applied(model))
    return grey_picture(model)
