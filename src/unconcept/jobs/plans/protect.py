"""The plan of `protect`."""

import time
from pathlib import Path

from ...core.output_folder import default_store, require_usable_folder
from ...evaluation.protection.learners import LEARNERS, learner_for
from ...evaluation.protection.preparation import preparation_path
from ...evaluation.worlds import world_of
from ...protection import PreparedProtection, ProtectionCase, protect_picture
from ...training.session import Rehearsal, TrainingSession, training_session
from ..protection.options import ProtectOptions
from ..protection.proof import COPIES
from ..protection.protect import FIGURES_FILE, PAGE_FILE, OpenProtect, open_protect
from .facts import PAGE_BYTES, model_facts
from .pictures import png_bytes
from .plan import Plan, PlannedStep, planned_file
from .rehearsals import rehearse_search
from .timing import time_drawing, timed_once


def plan_protect(options: ProtectOptions) -> Plan:
    """Plan the copies of pictures."""
    opening, opened = timed_once(lambda: open_protect(options))
    require_usable_folder(options.out, opened.identity, options.overwrite)
    steps = [PlannedStep(f"open {opened.model.name}", opening, "it was opened"), *protect_steps(opened, options)]
    files = [planned_file(options.out / one.copy_name, png_bytes(one.picture.numel())) for one in opened.given]
    kept = _network_path(opened, options)
    if kept is not None and not kept.exists():
        files.append(planned_file(kept))
    if opened.proof is not None:
        files.append(planned_file(options.out / COPIES))
    files += [planned_file(options.out / PAGE_FILE, PAGE_BYTES), planned_file(options.out / FIGURES_FILE)]
    limit = f"{opened.budget.most:g} by {opened.budget.name}"
    facts = {**model_facts(opened.model), "protection": opened.info.name, "budget": limit}
    return Plan(facts, tuple(steps), tuple(files))


def protect_steps(opened: OpenProtect, options: ProtectOptions) -> list[PlannedStep]:
    """The steps that take long: a network, the pictures, and what learners learn of them."""
    kept, count = _network_path(opened, options), len(opened.given)
    if kept is None:
        return [_rehearsed(opened, options, count), *_proof_steps(opened)]
    steps = [PlannedStep("read the network from the store")]
    if not kept.exists():
        assert isinstance(opened.protection, PreparedProtection)
        drawn = opened.protection.training_pictures
        steps = [PlannedStep(f"train a network on {drawn} pictures by the model, once for all pictures", None)]
    return [*steps, PlannedStep(f"change {count} pictures", None), *_proof_steps(opened)]


def _network_path(opened: OpenProtect, options: ProtectOptions) -> Path | None:
    """Where the protection's network is kept; None if it has none."""
    store = options.store or default_store()
    return preparation_path(opened.protection, opened.subject, opened.budget, options.text, options.seed, store)


def _proof_steps(opened: OpenProtect) -> list[PlannedStep]:
    """What each learner of a proof learns and draws, from a few steps of its first training."""
    if opened.proof is None:
        return []
    plan, model = opened.proof.plan(opened.proof.subject.pictures), opened.model
    spec, factors = plan.spec(plan.model), plan.factors
    draws, steps = time_drawing(model, spec, plan.copies), []
    for name in plan.learners:
        learner = learner_for(name, world_of(plan.model.model), plan.steps)
        case = learner.case(model, plan.clean, plan.prompts(), spec)
        settings = learner.attack_settings(len(plan.clean.pictures))
        one = rehearse_search(LEARNERS[name], settings, case, draws.of_one_step)
        copies = len(factors) * plan.copies
        seconds = sum(factors) * one.seconds + draws.seconds(copies, spec.steps)
        longer = f", {max(factors)} times as many in {factors.count(max(factors))}" if max(factors) > 1 else ""
        told = f"learn by {name} {len(factors)} times, {learner.steps} steps each{longer}; draw {copies} copies"
        steps.append(PlannedStep(told, seconds, f"the first {one.taken} steps of one were timed"))
    return steps


def _rehearsed(opened: OpenProtect, options: ProtectOptions, count: int) -> PlannedStep:
    """Time the first picture with a few of its steps."""
    rehearsal, begun = Rehearsal(), time.perf_counter()
    case = ProtectionCase(opened.model, opened.given[0].picture, opened.budget, options.text, options.seed)
    with training_session(TrainingSession(rehearsal=rehearsal)):
        protect_picture(opened.protection, case)
    seconds = time.perf_counter() - begun + rehearsal.left_out
    steps = f", {rehearsal.steps} steps each" if rehearsal.steps else ""
    return PlannedStep(f"change {count} pictures{steps}", count * seconds, "a few steps of the first were timed")
