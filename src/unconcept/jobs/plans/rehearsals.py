"""Rehearses the making of an edit and the searches of attacks, to estimate their time."""

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ...attacks import Attack, AttackAttempt, AttackCase, attacks
from ...core.errors import NumericsError
from ...core.progress import ignore_progress
from ...core.settings import build_settings
from ...edits import Edit
from ...erasing.make_edit import make_edit, train_in_folder
from ...erasing.request_defaults import ResolvedRequest
from ...evaluation.tasks.edit_task import EditTask
from ...evaluation.tasks.picture_store import PictureStore
from ...methods import MethodServices
from ...models import ModelView
from ...training.options import DEFAULT_TRAINING_OPTIONS, TrainingOptions
from ...training.regularisers import NO_REGULARISERS, Regularisers
from ...training.session import Rehearsal, TrainingSession, current_session, training_session
from .plan import PlannedStep
from .timing import fewest_steps

_LOOKS = 3  # of a method that looks at pictures until the target is gone (inferred)


@dataclass(frozen=True)
class RehearsedEdit:
    """What the making of an edit would cost; the edit is of the right shape, and final for a closed form."""

    edit: Edit | None
    """None if the rehearsal stopped."""
    seconds: float
    rehearsal: Rehearsal
    stopped: str = ""
    """Why the rehearsal stopped early."""

    def step(self, what: str) -> PlannedStep:
        """The step of a plan that makes the edit."""
        done, parts = self.rehearsal, []
        if done.pictures:
            parts.append(f"{done.pictures} pictures of its own")
        if done.steps:
            parts.append(f"{done.steps} steps of training")
        whole = done.taken == done.steps and not done.pictures
        basis = "it was made, and thrown away" if whole else f"{done.taken} of the steps were taken and thrown away"
        told = f"{what}{': ' * bool(parts)}{', '.join(parts)}"
        return PlannedStep(told, self.seconds, self.stopped or basis)


def rehearse_edit(
    model: ModelView,
    chosen: ResolvedRequest,
    method: str,
    settings: Mapping[str, object],
    services: MethodServices,
    cost_of_step: float,
    regularisers: Regularisers = NO_REGULARISERS,
    options: TrainingOptions = DEFAULT_TRAINING_OPTIONS,
) -> RehearsedEdit:
    """Make an edit with a few steps of each training. Raises the errors of bad input that the method would raise.

    `cost_of_step` are the seconds of one sampling step of one picture.
    """
    rehearsal = Rehearsal(cost_of_step, fewest_steps(model))
    begun = time.perf_counter()
    edit, stopped = None, ""
    try:
        with train_in_folder(None, ignore_progress, options, rehearsal):
            edit = make_edit(model, chosen, method, settings, services, regularisers)
    except NumericsError as error:  # Of pictures that stand for others, or of too few steps.
        stopped = f"the rehearsal stopped early: {error}"
    return RehearsedEdit(edit, time.perf_counter() - begun + rehearsal.left_out, rehearsal, stopped)


def rehearse_task(task: EditTask, cost_of_step: float) -> RehearsedEdit:
    """Rehearse the edit of a task; its services get a store that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="unconcept-") as place:
        services = task.services(PictureStore(Path(place)))
    cost_of_picture = task.world.draw_spec(None).steps * cost_of_step
    services = rehearsed_services(services, cost_of_picture, len(task.concepts))
    model, method = task.subject.base(), task.variant.method
    return rehearse_edit(model, task.chosen, method, task.settings, services, cost_of_step)


def rehearsed_services(services: MethodServices, cost_of_picture: float, targets: int) -> MethodServices:
    """Services that draw and judge nothing, and add what that would cost to the current rehearsal."""

    def charge(pictures: int) -> None:
        rehearsal = current_session().rehearsal
        assert rehearsal is not None
        rehearsal.pictures += pictures
        rehearsal.left_out += pictures * cost_of_picture

    looks = 0

    def count_attributes(text: str, attributes: Sequence[str], pictures: int, turn: int) -> Sequence[int]:
        charge(pictures)
        return (pictures, *[0] * (len(attributes) - 1))  # Never balanced: all turns are taken.

    def judge_presence(pictures: int) -> float:
        nonlocal looks
        looks += 1
        charge(pictures * targets)
        return float(looks < _LOOKS)

    return replace(
        services,
        attribute_counter=services.attribute_counter and count_attributes,
        presence_judge=services.presence_judge and judge_presence,
    )


@dataclass(frozen=True)
class RehearsedSearch:
    """What a search of an attack would cost if it found nothing."""

    prompts: int
    steps: int
    """Steps of the whole search."""
    taken: int
    """Steps that the rehearsal took, or covered by taking a few of them."""
    seconds: float
    """Of the search alone."""
    floor: int
    """Pictures that the first attempt draws, before any search."""
    later: int
    """Pictures that all later attempts draw."""
    starts_plain: bool
    """Whether the first attempt is the prompts themselves."""


def rehearse_search(
    name: str, settings: Mapping[str, object], case: AttackCase, cost_of_step: float
) -> RehearsedSearch:
    """Run a search up to its first attempt, with a few of the steps."""
    method: Attack = build_settings(attacks[name].settings, settings, f"{name} setting")
    rehearsal, found = Rehearsal(cost_of_step, fewest_steps(case.model)), list[AttackAttempt]()
    begun = time.perf_counter()
    with training_session(TrainingSession(rehearsal=rehearsal)):
        for attempt in method.search(case):
            found.append(attempt)
            if attempt.steps > 0:
                break
    spent = time.perf_counter() - begun + rehearsal.left_out
    first, last = found[0], found[-1]
    most = max(last.steps, getattr(method, "most_steps", last.steps))
    share = most / last.steps if last.steps else 1.0
    attempts = getattr(method, "most_attempts", share)  # Of most attacks they are as far apart as their steps.
    later = round(attempts * len(last.inputs)) if last.steps else 0
    plain = all(
        one.text == case.prompts[i] and one.soft is None and one.states is None and one.noise is None
        for i, one in first.inputs.items()
    )
    return RehearsedSearch(len(case.prompts), most, last.steps, spent * share, len(first.inputs), later, plain)
