"""An erasure as data, and what it opens: its suite, its judges, the services of its method."""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..core.errors import require
from ..core.output_folder import default_store, require_free_output
from ..core.progress import ProgressCallback, ignore_progress
from ..core.request import RequestSpec
from ..core.settings import build_settings
from ..edits import Edit, origin_of
from ..edits.base import validate_strength
from ..erasing.request_defaults import ResolvedRequest, weights_of_targets
from ..evaluation.judging.advice import ADVICE, judged_services
from ..evaluation.judging.choice import choose_judge, require_no_adviser
from ..evaluation.judging.judge import Judge, judge_for_methods, require_scorer_files
from ..evaluation.sampling import DrawSpec
from ..evaluation.suites.registry import Suite, suites
from ..evaluation.tasks.edited_model import EditedModel
from ..evaluation.tasks.picture_store import PictureStore
from ..evaluation.worlds import world_of
from ..methods import MethodServices, methods
from ..methods.registry import MethodInfo
from ..models import ModelView
from ..models.text.text_identity import TokenTextKey
from ..prompts.checks import GroupSizes
from ..prompts.safety import require_drawable
from ..training.options import DEFAULT_TRAINING_OPTIONS, TrainingOptions, changed_options
from ..training.regularisers import Regularisers, build_regularisers
from .options import ModelOptions, OverwriteOptions, StrengthOptions


@dataclass(frozen=True)
class Job(ModelOptions, StrengthOptions, OverwriteOptions):
    """A complete erasure job; `plan_job` makes it from options, recipe and defaults."""

    ask: RequestSpec
    out: Path
    method: str = "uce"
    settings: Mapping[str, Any] | None = None
    """Settings of the method; None for its defaults."""
    _: KW_ONLY
    regularisers: Mapping[str, Any] = field(default_factory=dict)
    """Regularisers of a trained method."""
    report: bool = True
    """Whether pictures are drawn and judged."""
    judge: str | None = None
    """NAME or NAME=PATH; an embedded model has its own."""
    method_judge: str | None = None
    """NAME or NAME=PATH: the judge that the method may ask while it works; never the one that grades."""
    sizes: GroupSizes = GroupSizes()
    spec: DrawSpec = DrawSpec()
    options: TrainingOptions = DEFAULT_TRAINING_OPTIONS
    """Training options of a trained method."""
    recipe: str | None = None
    store: Path | None = None
    store_pictures: bool = False
    """Whether pictures of an explicit concept stay too."""
    weights: Mapping[str, Any] | None = None
    """How much a concept counts beside the others, by name; one that is not named counts 1."""


@dataclass(frozen=True)
class OpenErasure:
    """An erasure whose model, method, request and judge are open."""

    job: Job
    info: MethodInfo
    regularisers: Regularisers
    unedited: EditedModel
    chosen: ResolvedRequest

    @property
    def suite(self) -> Suite:
        """The suite that checks an erasure."""
        return suite_of(self.job, self.chosen)


def open_erasure(job: Job) -> OpenErasure:
    """Check an erasure and open what it needs. Bad input raises `UsageError` before anything is made."""
    info, regularisers = _check(job)
    unedited = EditedModel(job.model, device=job.device, dtype=job.dtype)
    info.require_few_steps(unedited.base())
    folds_case = TokenTextKey.of(unedited.base()).folds_case
    chosen = world_of(job.model).request(job.ask, info.does, folds_case)
    if job.weights:
        weights_of_targets(chosen, job.weights)  # A wrong one fails before anything is made.
        told = ", ".join(f"{name} {weight}" for name, weight in job.weights.items())
        chosen = replace(chosen, reasons={**chosen.reasons, "weights": f"{told}, each other concept 1"})
    if job.report:
        require_drawable(chosen.request.targets)
    opened = OpenErasure(job, info, regularisers, unedited, chosen)
    if info.does != "debias" and (named := judge_of(job, unedited, opened.suite)):
        named.open()  # Open the judge first, so that a missing one fails before training.
    return opened


def _check(job: Job) -> tuple[MethodInfo, Regularisers]:
    """Look up the method and its regularisers; `UsageError` if options do not fit together."""
    require_free_output(job.out, job.overwrite)
    require_scorer_files(job.judge, "judge")
    require_scorer_files(job.method_judge, "method judge")
    validate_strength(job.strength, job.amplify)
    info = methods[job.method]
    info.require_weighing(job.weights)
    mechanism = info.mechanism_of(build_settings(info.settings, job.settings or {}, f"{job.method} setting"))
    message = (
        f"{', '.join(changed_options(job.options))}: only for trained methods, and {job.method} is"
        f" {mechanism}: leave it out"
    )
    require(mechanism == "trained" or not changed_options(job.options), message)
    asks = ADVICE & {*info.uses}
    require(
        bool(asks) or not job.method_judge, f"method judge {job.method_judge!r}: {job.method} asks none: leave it out"
    )
    return info, build_regularisers(job.regularisers, mechanism, job.method)


def open_services(
    job: Job, info: MethodInfo, model: ModelView, chosen: ResolvedRequest, progress: ProgressCallback = ignore_progress
) -> MethodServices:
    """Open what the method uses while it works. No service asks the judge that grades."""
    suite, store = suite_of(job, chosen), PictureStore(job.store or default_store())

    judge = _method_judge(job) if ADVICE & {*info.uses} else None
    asked = judged_services(info, model, chosen, judge, suite, job.spec, store, progress)
    weights = weights_of_targets(chosen, job.weights)
    return replace(asked, vision_towers=world_of(job.model).vision_towers, weights=weights)


def _method_judge(job: Job) -> Judge | None:
    """The judge that the method may ask: the named one, else the model's own for methods."""
    world = world_of(job.model)
    grading = world.judge if job.judge is None else Judge.parse(job.judge)
    return judge_for_methods(Judge.parse(job.method_judge) if job.method_judge else world.method_judge, grading)


def judge_of(job: Job, unedited: EditedModel, suite: Suite) -> Judge | None:
    """The judge of the report; one that answers with texts chooses among the request's texts and the suite's labels."""
    judge = choose_judge(job.judge, world_of(job.model).judge, unedited)
    targets = job.ask.targets
    if judge is None:
        return None
    require_no_adviser(judge, [job.method], unedited.base())
    return judge.with_labels((*targets, *(job.ask.retain or ())), suite.checks(targets), targets)


def suite_of(job: Job, chosen: ResolvedRequest) -> Suite:
    """The suite that checks the erasure."""
    return world_of(job.model).erasure_suite(chosen.concepts, chosen.request.retain, job.sizes)


def suite_of_debias(job: Job, chosen: ResolvedRequest, edit: Edit) -> Suite:
    """The suite that counts the attributes which the edit balances."""
    asked = world_of(job.model).suite(suites["debias"], chosen.concepts, chosen.request.retain, [origin_of(edit)])
    return replace(asked, sizes=job.sizes)
