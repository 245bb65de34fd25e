"""The plan of `protect`."""

import time

from ...core.output_folder import default_store, require_usable_folder
from ...evaluation.protection.preparation import preparation_path
from ...protection import PreparedProtection, ProtectionCase, protect_picture
from ...training.session import Rehearsal, TrainingSession, training_session
from ..protection.options import ProtectOptions
from ..protection.protect import FIGURES_FILE, PAGE_FILE, OpenProtect, open_protect
from .facts import PAGE_BYTES, model_facts
from .pictures import png_bytes
from .plan import Plan, PlannedStep, planned_file
from .timing import timed_once


def plan_protect(options: ProtectOptions) -> Plan:
    """Plan the copies of pictures."""
    opening, opened = timed_once(lambda: open_protect(options))
    require_usable_folder(options.out, opened.identity, options.overwrite)
    store, count = options.store or default_store(), len(opened.given)
    own = (opened.protection, opened.subject, opened.budget, options.text, options.seed, store)
    kept = preparation_path(*own)
    steps = [PlannedStep(f"open {opened.model.name}", opening, "it was opened")]
    files = [planned_file(options.out / one.copy_name, png_bytes(one.picture.numel())) for one in opened.given]
    if kept is None:
        steps.append(_rehearsed(opened, options, count))
    elif kept.exists():
        steps += [PlannedStep("read the network from the store"), PlannedStep(f"change {count} pictures", None)]
    else:
        assert isinstance(opened.protection, PreparedProtection)
        drawn = opened.protection.training_pictures
        steps.append(PlannedStep(f"train a network on {drawn} pictures by the model, once for all pictures", None))
        steps.append(PlannedStep(f"change {count} pictures", None))
        files.append(planned_file(kept))
    files += [planned_file(options.out / PAGE_FILE, PAGE_BYTES), planned_file(options.out / FIGURES_FILE)]
    limit = f"{opened.budget.most:g} by {opened.budget.name}"
    facts = {**model_facts(opened.model), "protection": opened.info.name, "budget": limit}
    return Plan(facts, tuple(steps), tuple(files))


def _rehearsed(opened: OpenProtect, options: ProtectOptions, count: int) -> PlannedStep:
    """Time the first picture with a few of its steps."""
    rehearsal, begun = Rehearsal(), time.perf_counter()
    case = ProtectionCase(opened.model, opened.given[0].picture, opened.budget, options.text, options.seed)
    with training_session(TrainingSession(rehearsal=rehearsal)):
        protect_picture(opened.protection, case)
    seconds = time.perf_counter() - begun + rehearsal.left_out
    steps = f", {rehearsal.steps} steps each" if rehearsal.steps else ""
    return PlannedStep(f"change {count} pictures{steps}", count * seconds, "a few steps of the first were timed")
