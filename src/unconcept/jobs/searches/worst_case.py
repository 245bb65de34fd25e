"""Searches for the candidates that are hardest to erase together, and measures them beside easier and random sets."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ...core.errors import RequestError, SettingsError, require
from ...core.progress import ProgressCallback, ignore_progress
from ...core.request import require_distinct_texts
from ...core.settings import build_settings
from ...evaluation.attacks.worst_case import SetSearch, SetSearchSettings
from ...evaluation.judging.choice import NOT_JUDGED_NOTE, foreseen_judge
from ...evaluation.tasks.edit_task import Variant, variant_of_method
from ...evaluation.trials.forget_sets import (
    CandidateKind,
    ForgetSetPlan,
    WhatIsLeft,
    concept_of_prompt,
    examine_forget_sets,
    set_suite,
)
from ...evaluation.trials.report import Report
from ...evaluation.trials.trial import RunContext
from ...evaluation.worlds import world_of
from ...methods import methods
from ...models.loading import find_device
from ...models.text.text_identity import TokenTextKey
from ...prompts.safety import require_drawable
from ...worlds.table import table_of
from ..command_options import WorstCaseOptions
from ..evaluate import Measured, measure
from ..evaluate_job import EvaluationRun, OpenRun, open_run
from ..resolve import values_for


@dataclass(frozen=True, kw_only=True)
class WorstCaseRun(EvaluationRun):
    """A complete search job."""

    candidates: tuple[str, ...]
    by: CandidateKind
    loss: WhatIsLeft
    search: SetSearchSettings
    random: int


def plan_worst_case(options: WorstCaseOptions) -> WorstCaseRun:
    """Make the job of `unconcept worst-case` from its options. Wrong names and numbers open no model."""
    candidates, table = options.names, table_of(options.model)
    require(bool(candidates), "no candidate: name more of them than --size", RequestError)
    twice = next((name for i, name in enumerate(candidates) if name in candidates[:i]), None)
    require(twice is None, f"candidate {twice!r} is named twice: name it once", RequestError)
    search = SetSearchSettings(options.size, options.outer, options.w_lr)
    SetSearch(len(candidates), search)
    concepts = candidates
    if options.by == "prompt":
        concepts = tuple(dict.fromkeys(concept_of_prompt(text, table)[0] for text in candidates))
    made = {
        "concepts": concepts,
        "joint_requests": (concepts,),
        "variants": (_variant(options),),
        "suite": "erase",
        "candidates": candidates,
        "search": search,
    }
    return WorstCaseRun(**{**values_for(WorstCaseRun, options), **made})


def _variant(options: WorstCaseOptions) -> Variant:
    """The method with the settings of the model's recipe for it, under the user's."""
    info = methods[options.method]
    message = f"{info.name} erases nothing, or asks a judge while it works: name a method that erases unwatched"
    require(info.erases_unwatched, message, SettingsError)
    variant = variant_of_method(info.name, options.model).changed(info.name, options.settings or {})
    build_settings(info.settings, variant.settings, f"{info.name} setting")
    return replace(variant, bare=options.by == "prompt")


def find_worst_case(
    run: WorstCaseRun,
    progress: ProgressCallback = ignore_progress,
    announce: Callable[[OpenRun], None] = lambda opened: None,
) -> Report:
    """Search for the set that is hardest to erase, or continue an interrupted search, and report.

    `announce` is called before anything is written or drawn.
    """
    opened, plan = open_search(run)
    announce(opened)

    def examine(_: OpenRun, folder: Path, context: RunContext) -> Measured:
        found, tally, data = examine_forget_sets(plan, folder, context)
        return Measured(found, tally, len(plan.sets_to_come()), data)

    return measure(opened, examine, progress)


def open_search(run: WorstCaseRun) -> tuple[OpenRun, ForgetSetPlan]:
    """Open the model and the judge. The opened run has the random sets, and two that stand for those to be found.

    Bad input raises `UsageError` before anything is drawn.
    """
    require_drawable(run.candidates)
    judge = foreseen_judge(run.judge, world_of(run.model).judge, find_device(run.device).type)
    require(judge is not None, f"{NOT_JUDGED_NOTE}: sets are compared by their pictures", SettingsError)
    opened = open_run(run)
    suite = set_suite(world_of(run.model), run.candidates, run.by, table_of(run.model))
    suite = suite.with_limit(run.limit, run.seed)
    plan = ForgetSetPlan(
        opened.unedited,
        run.variants[0],
        run.candidates,
        run.by,
        run.loss,
        run.search,
        run.random,
        run.seed,
        suite,
    )
    request = plan.erasure("search", range(len(run.candidates))).chosen.request
    key = TokenTextKey.of(opened.unedited.base())
    require_distinct_texts(request.targets, request.retain, key)
    sets = tuple(plan.named(members) for members in plan.sets_to_come())
    return replace(opened, suite=suite, run=replace(run, joint_requests=sets)), plan
