"""The attacks that a command would run: searches, and the pictures that they draw."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil

from ...evaluation.attacks.own_training import own_training
from ...evaluation.tasks.attack import ATTACK_TASK_COST, AttackTask
from ...evaluation.trials.bench import attacks_on_trial, ladder_on_trial
from ...evaluation.trials.trial import Trial
from ..evaluate_job import OpenRun
from .pictures import worker_seconds, workers_for
from .plan import PlannedStep
from .rehearsals import RehearsedSearch, rehearse_search
from .timing import DrawTime, grey_pictures, time_drawing

_AT_ONCE = 4  # prompts of a search, and so pictures drawn together
_Searches = tuple[list[AttackTask], list[AttackTask]]


@dataclass(frozen=True)
class SearchCosts:
    """Seconds of what attacks do between their steps."""

    draws: DrawTime
    judge: float
    steps: int

    @property
    def picture(self) -> float:
        """Of drawing and judging one picture."""
        return self.draws.seconds(1, self.steps) + self.judge


@dataclass
class AttackTotal:
    """What one attack costs on all edits."""

    search: RehearsedSearch
    other_pictures: int
    """Examples and other pictures of the unedited model that an attacker gets."""
    searches: int = 0
    prompts: int = 0

    @property
    def pictures(self) -> int:
        """Drawn for all searches if none finds anything; on the unedited model the first input shows the concept."""
        one = self.search
        on_model = one.floor if one.starts_plain else 2 * one.floor
        return ceil(self.prompts / max(1, one.prompts) * (one.floor + one.later + on_model))

    def seconds(self, costs: SearchCosts) -> float:
        """Of all searches, as if none found anything."""
        searching = self.prompts / max(1, self.search.prompts) * self.search.seconds
        examples = self.other_pictures * costs.draws.seconds(1, costs.steps)
        return searching + self.pictures * costs.picture + examples

    def step(self, name: str, costs: SearchCosts, workers: int) -> PlannedStep:
        """The step of a plan."""
        one = self.search
        size = f"{self.searches} searches for {self.prompts} prompts, at most {one.steps} steps each"
        basis = f"the first {one.taken} steps of one search were timed; a search ends early for a prompt that succeeds"
        seconds = worker_seconds(self.seconds(costs), 2 * self.searches, workers)
        return PlannedStep(f"attack with {name}: {size}", seconds, basis)


def attack_steps(trials: Sequence[Trial], opened: OpenRun, judge_cost: float) -> list[PlannedStep]:
    """The steps of all attacks: one for each attack, and one for each edit that it cannot act on."""
    if not (opened.suite.attacks or opened.suite.rungs) or not trials:
        return []
    model = opened.unedited.base()
    costs = search_costs(opened, judge_cost)
    totals, beyond = rehearse_attacks(trials, opened, costs)
    count = sum(total.searches for total in totals.values())
    workers = workers_for(2 * ATTACK_TASK_COST * count, str(model.device), opened.run.workers)
    steps = [total.step(name, costs, workers) for name, total in totals.items()]
    return [*steps, *(PlannedStep(f"no attack on {line}") for line in beyond)]


def search_costs(opened: OpenRun, judge_cost: float) -> SearchCosts:
    """Time what attacks do between their steps; a picture is judged in `judge_cost` seconds."""
    return SearchCosts(time_drawing(opened.unedited.base(), opened.spec, _AT_ONCE), judge_cost, opened.spec.steps)


def rehearse_attacks(
    trials: Sequence[Trial], opened: OpenRun, costs: SearchCosts
) -> tuple[dict[str, AttackTotal], list[str]]:
    """Rehearse a search of each attack or rung, by name; and a line for each edit that one cannot act on."""
    totals: dict[str, AttackTotal] = {}
    beyond: list[str] = []
    for trial in trials:
        searches, reasons = _searches(trial, opened)
        beyond += [f"{trial.label}, {name}: {why}" for name, why in reasons.items()]
        for name, (own, ceilings) in searches.items():
            if name not in totals:
                totals[name] = _rehearsed(trial, ceilings[0], costs)
            totals[name].searches += len(own)
            totals[name].prompts += sum(task.size for task in own)
    return totals, beyond


def _searches(trial: Trial, opened: OpenRun) -> tuple[dict[str, _Searches], dict[str, str]]:
    """The searches by attack, or by rung of a ladder: those that may take long, and those of the unedited model; and
    why others cannot act on the edit.
    """
    found: dict[str, _Searches] = {}
    if opened.suite.rungs:
        rungs = ladder_on_trial(trial, opened.suite, opened.spec, opened.judge, opened.control)
        for one in rungs:
            if one.own:
                found[one.rung.name] = [*one.own, *one.controls], list(one.ceilings)
        return found, {one.rung.name: one.reason for one in rungs if one.reason}
    own, ceilings, reasons = attacks_on_trial(trial, opened.suite, opened.spec, opened.judge)
    for task, same in zip(own, ceilings, strict=True):
        searches, unedited = found.setdefault(task.name, ([], []))
        searches.append(task)
        unedited.append(same)
    return found, reasons


def _rehearsed(trial: Trial, task: AttackTask, costs: SearchCosts) -> AttackTotal:
    """Rehearse one search; `task` is of the unedited model, so that the trial's edit need not be in a file."""
    model = trial.subject.base()
    case = replace(task.case(grey_pictures(model)), edit=trial.edit, retrain=own_training(trial.edit, model))
    search = rehearse_search(task.name, json.loads(task.settings), case, costs.draws.of_one_step)
    others = len(case.examples) + (0 if case.unrelated is None else len(case.unrelated[0]))
    return AttackTotal(search, others)
