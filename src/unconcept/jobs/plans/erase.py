"""The plan of `erase`."""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...core.output_folder import default_store
from ...core.settings import build_settings
from ...edits import Edit
from ...models import ModelView
from ...prompts.checks import Check
from ..command_options import EraseOptions
from ..erase import at_strength
from ..erase_job import Job, OpenErasure, judge_of, open_erasure, open_services, suite_of_debias
from ..resolve import plan_job
from .facts import PAGE_BYTES, edit_bytes, listed, model_facts
from .pictures import DrawingPlan, stored_prompts, workers_for
from .plan import Plan, PlannedFile, PlannedStep, planned_file
from .rehearsals import RehearsedEdit, rehearse_edit, rehearsed_services
from .timing import (
    DrawTime,
    grey_picture,
    judge_seconds,
    load_networks,
    time_drawing,
    time_with_edit,
    timed_once,
)


def plan_erase(options: EraseOptions) -> Plan:
    """Plan an erasure. Raises the errors that `erase` raises for bad input."""
    planned = plan_job(options)
    job = planned.job
    opening, opened = timed_once(lambda: open_erasure(job))
    model = opened.unedited.base()
    loading = load_networks(model) if job.report or opened.info.mechanism == "trained" else 0.0
    draws = time_drawing(model, job.spec, 2 * len(_prompts(opened)))
    made = _rehearsed(opened, model, draws)
    edit = None if made.edit is None else at_strength(made.edit, model, opened.chosen, job.strength)
    steps = [
        PlannedStep(f"open {job.model}", opening + loading, "it was opened"),
        made.step(f"make the edit with {job.method}"),
    ]
    facts = {**planned.reasons, **model_facts(model), **_request_facts(opened)}
    files = [planned_file(job.out / "edit.safetensors", edit_bytes(edit)), planned_file(job.out / "run.json")]
    if job.report:
        drawing = _drawing(opened, model, edit, draws)
        steps += drawing.steps()
        files += _report_files(job, drawing)
    return Plan(facts, tuple(steps), tuple(files))


def _rehearsed(opened: OpenErasure, model: ModelView, draws: DrawTime) -> RehearsedEdit:
    """Rehearse the making of the edit. Services get a store that is gone afterwards."""
    job, chosen = opened.job, opened.chosen
    with tempfile.TemporaryDirectory(prefix="unconcept-") as place:
        services = open_services(replace(job, store=Path(place)), opened.info, model, chosen)
    services = rehearsed_services(services, draws.seconds(1, job.spec.steps), len(chosen.concepts))
    settings = dict(job.settings or {})
    return rehearse_edit(
        model, chosen, job.method, settings, services, draws.of_one_step, opened.regularisers, job.options
    )


def _prompts(opened: OpenErasure, edit: Edit | None = None) -> list[Check]:
    """The checks of the report; those of debiasing depend on the edit."""
    names = [concept.name for concept in opened.chosen.concepts]
    if opened.info.does == "erase":
        return opened.suite.checks(names)
    return [] if edit is None else suite_of_debias(opened.job, opened.chosen, edit).checks(names)


def _drawing(opened: OpenErasure, model: ModelView, edit: Edit | None, draws: DrawTime) -> DrawingPlan:
    """What is drawn and judged for the report."""
    job, checks = opened.job, _prompts(opened, edit)
    prompts, store = list(dict.fromkeys(check.prompt for check in checks)), job.store or default_store()
    edited = replace(opened.unedited, edit_path="edit.safetensors", edit_hash=None if edit is None else edit.hash)
    base = stored_prompts(store, opened.unedited, job.spec, prompts)
    after = 0 if edit is None else stored_prompts(store, edited, job.spec, prompts)
    lacking = (len(prompts) - base, len(prompts) - after)
    workers, like = workers_for(sum(lacking), str(model.device)), grey_picture(model)
    if workers > 1:
        draws = time_drawing(model, job.spec, len(prompts), None, workers)
    with_edit = draws if edit is None else time_with_edit(model, job.spec, len(prompts), edit, draws, workers)
    judge = judge_of(job, opened.unedited, opened.suite) if checks else None
    cost = 0.0 if judge is None else judge_seconds(judge, checks[0], like)
    sides = tuple(zip(lacking, (draws, with_edit), strict=True))
    return DrawingPlan(job.spec, sides, base + after, 2 * len(checks), judge, cost, like.numel(), workers)


def _report_files(job: Job, drawing: DrawingPlan) -> list[PlannedFile]:
    pictures = (drawing.count + drawing.stored) * drawing.png_bytes
    return [
        planned_file(job.out / "report.html", PAGE_BYTES + 4 / 3 * pictures),
        *(planned_file(job.out / name) for name in ("report.json", "results.csv", "README.md")),
        planned_file(job.out / "samples", pictures),
        *drawing.store_files(job.store or default_store()),
    ]


def _request_facts(opened: OpenErasure) -> dict[str, str]:
    request, job = opened.chosen.request, opened.job
    settings: Any = build_settings(opened.info.settings, job.settings or {}, f"{job.method} setting")
    told = ", ".join(f"{name} = {value}" for name, value in vars(settings).items()) or "no settings"
    anchors = ", ".join(map(repr, dict.fromkeys(request.anchors))) or "none"
    return {
        "method": f"{job.method} ({opened.info.mechanism}): {told}",
        "targets": listed(request.targets),
        "anchors": anchors,
        "retained": listed(request.retain),
    }
