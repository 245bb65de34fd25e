"""The plan of `recheck`: derivatives are opened, and the first of them is measured."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from ...core.errors import UsageError
from ...edits import Edit, origin_of
from ...models import ModelView
from ..command_options import RecheckOptions
from ..derivatives.recheck import drawing_options, drawn_concepts, open_recheck
from ..derivatives.transfer import bind_edit, reading_change
from .evaluate import plan_run
from .facts import listed
from .plan import Plan, PlannedStep, planned_file
from .timing import timed_once


def plan_recheck(options: RecheckOptions) -> Plan:
    """Plan a recheck. One model that cannot be checked raises its `UsageError`; of several, it is told."""
    opening, opened = timed_once(lambda: open_recheck(options))
    base = "look for the edit's base" if opened.base is None else f"open {opened.base.name}, the edit's base"
    steps, failed, reading = [PlannedStep(base, opening, "as it took now")], list[str](), 0.0
    for model in opened.models:
        try:
            binding, (moved, view) = timed_once(partial(bind_edit, opened.edit, options.edit, model))
            reading = reading or _reading_seconds(moved, view)
            steps.append(PlannedStep(f"measure {model}", binding + reading, "it was opened, and one was measured"))
            steps += _drawing(options, moved, model)
        except UsageError as error:
            if len(opened.models) == 1:
                raise
            failed.append(f"{model}: {error}")
    facts = {
        "edit": f"{options.edit}, which {opened.edit.describe()}",
        "concepts": listed(origin_of(opened.edit).targets),
        "models": listed(opened.models),
        **({"not checked": "; ".join(failed)} if failed else {}),
    }
    files = () if options.out is None else (planned_file(options.out),)
    return Plan(facts, tuple(steps), files)


def _reading_seconds(edit: Edit, model: ModelView) -> float:
    """Seconds of measuring an edit on one model; 0 if it changes no weight."""
    return timed_once(lambda: reading_change(edit, model))[0] if edit.names else 0.0


def _drawing(options: RecheckOptions, moved: Edit, model: str) -> Iterator[PlannedStep]:
    """What is drawn and judged on one model, if anything: all concepts take as long as the first."""
    if options.out is None:
        return
    concepts = drawn_concepts(model, origin_of(moved).targets)
    with TemporaryDirectory() as place:
        file = Path(place) / "edit.safetensors"
        moved.save(file)
        one = plan_run(drawing_options(options, file, model, concepts[0], options.out / "first"))
    seconds = one.seconds * len(concepts) if one.is_complete else None
    yield PlannedStep(f"draw and judge {listed(concepts)} on {model}", seconds, f"{concepts[0]} was planned")
