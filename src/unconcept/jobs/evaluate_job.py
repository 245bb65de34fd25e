"""An evaluation as data, and what it opens: its model, its edits, its suite and its judge."""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path

from ..attacks import attacks
from ..core.concept import Concept
from ..core.errors import DataError, RequestError, require
from ..core.text_identity import TextKey, folded_text
from ..edits import Edit, EditOrigin, open_edit, origin_of
from ..edits.base import validate_strength
from ..erasing.edit_notes import edit_notes
from ..evaluation.attacks.selection import attacks_of_family, gradable_attacks
from ..evaluation.judging.choice import choose_judge, require_no_adviser
from ..evaluation.judging.judge import Judge
from ..evaluation.sampling import DrawSpec
from ..evaluation.suites.registry import Suite, suites
from ..evaluation.tasks.edit_task import Variant, variant_of_method
from ..evaluation.tasks.edited_model import EditedModel
from ..evaluation.worlds import world_of
from ..models import find_model
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
    spec: str | None = None
    """Name of a paper's sampler settings; None for the model's default."""
    attacks: tuple[str, ...] | None = None
    """Names of attacks; None for the suite's own."""

    @property
    def requests(self) -> tuple[tuple[str, ...], ...]:
        """Tuples of concepts; each variant makes one edit per tuple."""
        return self.joint_requests or tuple((name,) for name in self.concepts)

    @property
    def identity(self) -> dict[str, str]:
        """What identifies a run, besides the edits: an interrupted run with the same identity continues."""
        elsewhere = ("out", "overwrite", "max_minutes", "workers", "store", "edits")
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
    notes: dict[str, str]
    """What was left out, and what an edit cannot reach."""

    @property
    def origins(self) -> list[EditOrigin]:
        """The origins of the edits."""
        return [origin_of(edit) for edit in self.edits.values()]


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
    edits = {path: open_edit(path) for path in run.edits}
    origins = [origin_of(edit) for edit in edits.values()]
    run = with_base(run)
    validate_strength(run.strength, run.amplify)
    find_model(run.model)
    unedited = EditedModel(run.model, device=run.device, dtype=run.dtype)
    suite = suite_of_run(run, origins, TokenTextKey.of(unedited.base()))
    for names in run.requests:
        require_drawable([check.prompt.text for check in suite.checks(names)], names)
    judge = _judge(run, origins, suite, unedited)
    spec = world_of(run.model).draw_spec(run.spec, suite.spec, run.batch_size)
    suite, ungraded = gradable_attacks(suite, run.attacks or (), judge)
    if judge is not None:
        judge.open()  # So that a missing judge fails before anything is drawn.
    suite, left_out = attacks_of_family(suite, run.attacks or (), unedited.base().family)
    notes = {"prompts of the file": suite.note} if suite.note else {}
    for edit in edits.values():
        notes |= edit_notes(edit, unedited.base())
    return OpenRun(run, edits, unedited, suite, judge, spec, {**ungraded, **left_out, **notes})


def _require_known_names(run: EvaluationRun) -> None:
    """Raise a `UsageError` for a name that does not exist, before any edit file is read."""
    suites[run.suite]
    require(bool(run.concepts), "no concept: name at least one", RequestError)
    message = f"prompts {run.prompts}: the file does not exist"
    require(run.prompts is None or run.prompts.exists(), message, DataError)
    for name in run.attacks or ():
        if name != "*":
            attacks[name]
    if run.judge is not None:
        Judge.parse(run.judge)


def suite_of_run(run: EvaluationRun, origins: Sequence[EditOrigin] = (), key: TextKey = folded_text) -> Suite:
    """The suite with the chosen prompts, size and attacks; `key` tells which names are one concept."""
    suite, world = suites[run.suite], world_of(run.model)
    world.require_concepts(run.concepts)
    if run.prompts is not None:
        own = world.suite_from_file(run.prompts, run.concepts, key, own_judge=run.judge is None)
        suite = replace(own, figures=suite.figures, attacks=suite.attacks, spec=suite.spec, stepwise=suite.stepwise)
    else:
        suite = world.suite(suite, _words(run, origins), _retained(origins), origins)
    suite = suite.with_limit(run.limit, run.seed)
    if run.attacks is None:
        return suite
    return replace(suite, attacks=tuple(name if name == "*" else attacks[name].name for name in run.attacks))


def _judge(run: EvaluationRun, origins: Sequence[EditOrigin], suite: Suite, unedited: EditedModel) -> Judge | None:
    """The judge of the run; one that answers with texts chooses among concepts, retained texts, anchors and the suite's
    labels.
    """
    judge = choose_judge(run.judge, world_of(run.model).judge, unedited)
    if judge is None:
        return None
    made_by = [*(variant.method for variant in run.variants), *(origin.method for origin in origins)]
    require_no_adviser(judge, made_by, unedited.base(), [origin.adviser for origin in origins])
    anchors = [anchor for origin in origins for anchor in origin.anchors]
    texts = (*run.concepts, *_retained(origins), *anchors)
    return judge.with_labels(texts, suite.checks(run.concepts), run.concepts)


def _words(run: EvaluationRun, origins: Sequence[EditOrigin]) -> list[Concept]:
    kind = origins[0].kind if origins else "object"
    return [Concept(name, kind) for name in run.concepts]  # type: ignore[arg-type]


def _retained(origins: Sequence[EditOrigin]) -> list[str]:
    return list(dict.fromkeys(text for origin in origins for text in origin.retain))
