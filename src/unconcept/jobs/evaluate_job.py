"""An evaluation as data, and what it opens: its model, its edits, its suite and its judge."""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path

from ..attacks import attacks
from ..core.concept import Concept
from ..core.errors import DataError, RequestError, SettingsError, require
from ..core.output_folder import require_usable_folder
from ..core.text_identity import TextKey, folded_text
from ..edits import Edit, EditOrigin, open_edit, origin_of
from ..edits.base import validate_strength
from ..edits.weights import base_note
from ..erasing.edit_notes import edit_notes
from ..evaluation.attacks.ladder import named_rungs
from ..evaluation.attacks.selection import attacks_of_family, first_attacked_note, gradable_attacks
from ..evaluation.judging.advice import adviser_of
from ..evaluation.judging.choice import choose_judge, foreseen_judge, require_no_adviser
from ..evaluation.judging.judge import Judge, require_measuring, require_scorer_files
from ..evaluation.references.record import require_never_saw
from ..evaluation.sampling import DrawSpec, long_prompts_note
from ..evaluation.suites.registry import Suite, suites
from ..evaluation.tasks.edit_task import Variant, variant_of_method
from ..evaluation.tasks.edited_model import EditedModel
from ..evaluation.trials.bench import edits_beside_methods, trial_of_edit
from ..evaluation.trials.ladder import require_a_rung
from ..evaluation.trials.trial import Trial
from ..evaluation.worlds import world_of
from ..models import find_model
from ..models.checkpoint.hub import is_hub_id
from ..models.images import read_picture_folder
from ..models.loading import find_device
from ..models.text.text_identity import TokenTextKey
from ..prompts.safety import require_drawable
from .edit_base import base_of_edits
from .options import (
    DeviceOptions,
    DrawOptions,
    EditBaseOptions,
    JudgeOptions,
    OverwriteOptions,
    RunOptions,
    StrengthOptions,
)
from .places.executors import require_cluster


@dataclass(frozen=True)
class EvaluationRun(
    RunOptions, DrawOptions, JudgeOptions, StrengthOptions, DeviceOptions, EditBaseOptions, OverwriteOptions
):
    """A complete evaluation job. It makes edits of `variants` and `methods`, and evaluates them beside `edits`."""

    concepts: tuple[str, ...]
    out: Path
    edits: tuple[Path, ...] = ()
    variants: tuple[Variant, ...] = ()
    joint_requests: tuple[tuple[str, ...], ...] = ()
    """Concepts that each edit of a variant erases together; () for one edit per concept."""
    _: KW_ONLY
    methods: tuple[str, ...] = ()
    """Names of methods, which become variants by the recipes of the model once that is known."""
    suite: str = "quick"
    prompts: Path | None = None
    """A prompt file to use instead of the suite's prompts."""
    measures: tuple[str, ...] = ()
    """Scorers that measure beside the judge, NAME or NAME=PATH."""
    references: Path | None = None
    """A folder of real pictures, for distances of sets."""
    spec: str | None = None
    """Name of a paper's sampler settings; None for the model's default."""
    attacks: tuple[str, ...] | None = None
    """Names of attacks; None for the suite's own."""
    rungs: tuple[str, ...] | None = None
    """Names of the rungs of a ladder to climb in place of attacks, () for all; None climbs none."""
    control: str | None = None
    """A model that never saw the concepts, on which rungs run too that may teach them."""

    @property
    def requests(self) -> tuple[tuple[str, ...], ...]:
        """Tuples of concepts; each variant makes one edit per tuple."""
        return self.joint_requests or tuple((name,) for name in self.concepts)

    @property
    def identity(self) -> dict[str, str]:
        """What identifies a run, besides the edits: an interrupted run with the same identity continues."""
        elsewhere = ("out", "overwrite", "max_minutes", "workers", "ray", "ray_gpus", "store", "edits")
        return {name: str(value) for name, value in vars(self).items() if name not in elsewhere}


@dataclass(frozen=True)
class OpenRun:
    """An evaluation with all that it opens."""

    run: EvaluationRun
    """The same run, on the base of its edits if no model was named."""
    edits: Mapping[Path, Edit]
    unedited: EditedModel
    suite: Suite
    judge: Judge | None
    spec: DrawSpec
    trials: Sequence[Trial]
    """The edits, each with the concepts that it is asked about."""
    notes: dict[str, str]
    """What was left out, and what an edit cannot reach."""
    control: EditedModel | None = None
    """The model that never saw the concepts."""

    @property
    def origins(self) -> list[EditOrigin]:
        """The origins of the edits."""
        return [origin_of(edit) for edit in self.edits.values()]

    @property
    def asked(self) -> list[tuple[str, ...]]:
        """The concepts of each request to the variants, then of each trial."""
        own = self.run.requests if self.run.variants or not self.trials else ()
        return [*own, *(trial.concepts for trial in self.trials)]

    @property
    def judged_pictures(self) -> int:
        """Pictures to judge; those of the unedited model are judged once for all methods."""
        sides = 1 + max(1, len(self.run.variants))
        return sides * sum(len(self.suite.checks(names)) for names in self.asked)

    @property
    def identity(self) -> dict[str, str]:
        """What identifies the run with its edits: an interrupted run with the same identity continues."""
        return {**self.run.identity, "edits": str([trial.subject.key for trial in self.trials])}


def with_base(run: EvaluationRun) -> EvaluationRun:
    """The same run with its model, by default the base of its edits, and with its variants.

    Names are checked before an edit is read.
    """
    _require_known_names(run)
    model = base_of_edits(run.edits, run.model)
    variants = (*run.variants, *(variant_of_method(name, model) for name in run.methods))
    return replace(run, model=model, methods=(), variants=variants)


def open_run(run: EvaluationRun) -> OpenRun:
    """Open the edits, each once, and the model, suite, judge and sampler settings.

    Bad input raises `UsageError` before anything is drawn.
    """
    _require_known_names(run)
    require_cluster(run)
    edits = {path: open_edit(path) for path in run.edits}
    origins = [origin_of(edit) for edit in edits.values()]
    run = with_base(run)
    _require_fitting_judge(run)
    validate_strength(run.strength, run.amplify)
    may_be_fixed = not run.variants  # Methods erase from plain weights alone.
    find_model(run.model, may_be_fixed)
    unedited = EditedModel(run.model, device=run.device, dtype=run.dtype, may_be_fixed=may_be_fixed)
    suite = suite_of_run(run, origins, TokenTextKey.of(unedited.base()))
    if run.references is not None:
        read_picture_folder(run.references, unedited.base(), suite.least_references)
    for names in run.requests:
        require_drawable([prompt.text for prompt in suite.prompts(names)], names)
    judge = _judge(run, origins, suite, unedited)
    spec = world_of(run.model).draw_spec(run.spec, suite.spec, run.batch_size)
    suite, ungraded = gradable_attacks(suite, run.attacks or suite.rungs, judge)
    if judge is not None:
        judge.open()  # So that a missing judge fails before anything is drawn.
    suite, left_out = attacks_of_family(suite, run.attacks or (), unedited.base().family)
    notes = {"prompts of the file": suite.note} if suite.note else {}
    for edit in edits.values():
        notes |= edit_notes(edit, unedited.base())
        note = base_note(edit, unedited.base())
        notes |= {"base": note} if note else {}
    asked = edits_beside_methods(run.edits, run.requests) if run.variants else asked_of_edits(run, suite.stepwise)
    notes |= first_attacked_note(suite, [names for _, names in asked] or run.requests)
    trials = [trial_of_edit(path, unedited, names, run.strength) for path, names in asked]
    for trial in trials:
        require_a_rung(trial, suite, judge)
    control = _control(run, unedited, [name for trial in trials for name in trial.concepts])
    opened = OpenRun(run, edits, unedited, suite, judge, spec, trials, {**ungraded, **left_out, **notes}, control)
    texts = [prompt.text for names in opened.asked for prompt in suite.prompts(names)]
    return replace(opened, notes=long_prompts_note(unedited.base(), texts) | opened.notes)


def asked_of_edits(run: EvaluationRun, stepwise: bool) -> list[tuple[Path, tuple[str, ...]]]:
    """Pair each edit file with the concepts that it is asked about: all, or one more for each edit.

    Where attacks were named, each concept is asked about, and attacked, by itself.
    """
    if run.attacks is not None:
        return [(path, (name,)) for path in run.edits for name in run.concepts]
    return [(path, run.concepts[: i + 1] if stepwise else run.concepts) for i, path in enumerate(run.edits)]


def _require_known_names(run: EvaluationRun) -> None:
    """Raise a `UsageError` for a name that does not exist, before any edit file is read."""
    suites[run.suite]
    require(bool(run.concepts), "no concept: name at least one", RequestError)
    message = f"prompts {run.prompts}: the file does not exist"
    require(run.prompts is None or run.prompts.exists(), message, DataError)
    for name in run.attacks or ():
        if name != "*":
            attacks[name]
    named_rungs(run.rungs or ())
    if run.judge is not None:
        Judge.parse(run.judge)
        require_scorer_files(run.judge, "judge")
    _require_places(run)


def _require_fitting_judge(run: EvaluationRun) -> None:
    """Raise a `UsageError` for a judge that the suite or a named attack cannot use, before a model is opened."""
    suite, world = suites[run.suite], world_of(run.model)
    judge = foreseen_judge(run.judge, world.judge, find_device(run.device).type)
    if judge is not None and world.judge is None:
        suite.require_judge(judge)
    if run.attacks is not None or run.rungs is not None:
        gradable_attacks(replace(suite, attacks=run.attacks or ()), run.attacks or ("ladder",), judge)


def _require_places(run: EvaluationRun) -> None:
    """Raise a `UsageError` for files and folders that are not there, or that may not be written."""
    require_usable_folder(run.out, None, run.overwrite)
    for named in run.measures:
        require_scorer_files(named, "--measure")
    require_measuring(run.measures)
    message = f"references {run.references}: the folder does not exist"
    require(run.references is None or run.references.exists(), message, DataError)
    unused = f"references {run.references}: suite {run.suite} has no distance of sets: leave --references out"
    require(run.references is None or suites[run.suite].least_references > 0, unused, SettingsError)
    if run.control is not None and not is_hub_id(run.control):
        find_model(run.control)


def suite_of_run(run: EvaluationRun, origins: Sequence[EditOrigin] = (), key: TextKey = folded_text) -> Suite:
    """The suite with the chosen prompts, size and attacks; `key` tells which names are one concept."""
    suite, world = suites[run.suite], world_of(run.model)
    world.require_concepts(run.concepts)
    if run.prompts is not None:
        kind = _words(run, origins)[0].kind
        own = world.suite_from_file(run.prompts, run.concepts, key, own_judge=run.judge is None, kind=kind)
        suite = replace(suite.beside_file(own), draw=suite.draw if world.judge else suite.published_draw)
    else:
        suite = world.suite(suite, _words(run, origins), _retained(origins), origins)
    suite = suite.with_limit(run.limit, run.seed)
    if run.rungs is not None:
        return replace(suite, attacks=(), rungs=tuple(rung.name for rung in named_rungs(run.rungs)))
    if run.attacks is None:
        return suite
    return replace(suite, attacks=tuple(name if name == "*" else attacks[name].name for name in run.attacks))


def _control(run: EvaluationRun, unedited: EditedModel, concepts: Sequence[str]) -> EditedModel | None:
    """The model that never saw the concepts. `RequestError` if it is of another family, the base itself, or saw one."""
    if run.control is None:
        return None
    require_never_saw(run.control, concepts)
    control = EditedModel(run.control, device=run.device, dtype=run.dtype)
    base, other = unedited.base(), control.base()
    fits = (other.family, other.latent_shape) == (base.family, base.latent_shape)
    message = f"control {run.control}: a {other.family} model, and {base.name} is a {base.family} model"
    require(fits, f"{message}: give one of the same family and size", RequestError)
    message = f"control {run.control}: it is the base of the edit, which saw the concept: give one that did not"
    require(control.key != unedited.key, message, RequestError)
    return control


def _judge(run: EvaluationRun, origins: Sequence[EditOrigin], suite: Suite, unedited: EditedModel) -> Judge | None:
    """The judge of the run; one that answers with texts chooses among concepts, retained texts, anchors and the suite's
    labels.
    """
    judge = choose_judge(run.judge, world_of(run.model).judge, unedited)
    if judge is None:
        return None
    to_make = [variant.method for variant in run.variants]
    made_by = [*to_make, *(origin.method for origin in origins)]
    advisers = [adviser_of(to_make, world_of(run.model).method_judge), *(origin.adviser for origin in origins)]
    require_no_adviser(judge, made_by, unedited.base(), advisers)
    anchors = [anchor for origin in origins for anchor in origin.anchors]
    texts = (*run.concepts, *_retained(origins), *anchors)
    if world_of(run.model).judge is None:
        suite.require_judge(judge)
    judge = judge.with_labels(texts, suite.checks(run.concepts), run.concepts).with_measures(run.measures)
    for names in run.requests:
        judge.require_checks(suite.checks(names))
    return judge


def _words(run: EvaluationRun, origins: Sequence[EditOrigin]) -> list[Concept]:
    """The concepts, each of the kind as which an edit erased it, else of the first edit's."""
    usual = origins[0].kind if origins else "object"
    kinds = {name: origin.kind for origin in reversed(origins) for name in origin.targets}
    return [Concept(name, kinds.get(name, usual)) for name in run.concepts]  # type: ignore[arg-type]


def _retained(origins: Sequence[EditOrigin]) -> list[str]:
    return list(dict.fromkeys(text for origin in origins for text in origin.retain))
