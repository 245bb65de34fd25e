"""The attacks that a command would run: searches, and the pictures that they draw."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...evaluation.attacks.own_training import own_training
from ...evaluation.tasks.attack import ATTACK_TASK_COST, AttackTask
from ...evaluation.trials.bench import attacks_on_trial
from ...evaluation.trials.trial import Trial
from ..evaluate_job import OpenRun
from .pictures import worker_seconds, workers_for
from .plan import PlannedStep
from .rehearsals import RehearsedSearch, rehearse_search
from .timing import DrawTime, grey_pictures, time_drawing

_AT_ONCE = 4  # prompts of a search, and so pictures drawn together


@dataclass(frozen=True)
class _Costs:
    """Seconds of what attacks do between their steps."""

    draws: DrawTime
    judge: float
    steps: int

    @property
    def picture(self) -> float:
        """Of drawing and judging one picture."""
        return self.draws.seconds(1, self.steps) + self.judge


@dataclass
class _AttackTotal:
    """What one attack costs on all edits."""

    search: RehearsedSearch
    other_pictures: int
    """Examples and other pictures of the unedited model that an attacker gets."""
    searches: int = 0
    prompts: int = 0

    def seconds(self, costs: _Costs) -> float:
        """Of all searches, as if none found anything; on the unedited model the first input shows the concept."""
        one, share = self.search, self.prompts / max(1, self.search.prompts)
        on_model = one.floor if one.starts_plain else 2 * one.floor
        pictures = share * (one.floor + one.later + on_model)
        return (
            share * one.seconds + pictures * costs.picture + self.other_pictures * costs.draws.seconds(1, costs.steps)
        )

    def step(self, name: str, costs: _Costs, workers: int) -> PlannedStep:
        """The step of a plan."""
        one = self.search
        size = f"{self.searches} searches for {self.prompts} prompts, at most {one.steps} steps each"
        basis = f"the first {one.taken} steps of one search were timed; a search ends early for a prompt that succeeds"
        seconds = worker_seconds(self.seconds(costs), 2 * self.searches, workers)
        return PlannedStep(f"attack with {name}: {size}", seconds, basis)


def attack_steps(trials: Sequence[Trial], opened: OpenRun, judge_cost: float) -> list[PlannedStep]:
    """The steps of all attacks: one for each attack, and one for each edit that it cannot act on."""
    if not opened.suite.attacks or not trials:
        return []
    model = opened.unedited.base()
    costs = _Costs(time_drawing(model, opened.spec, _AT_ONCE), judge_cost, opened.spec.steps)
    planned = [(trial, *attacks_on_trial(trial, opened.suite, opened.spec, opened.judge)) for trial in trials]
    totals: dict[str, _AttackTotal] = {}
    for trial, own, ceilings, _ in planned:
        for task in own:
            if task.name not in totals:
                same = next(one for one in ceilings if one.name == task.name)
                totals[task.name] = _rehearsed(trial, same, costs)
            totals[task.name].searches += 1
            totals[task.name].prompts += task.size
    count = sum(total.searches for total in totals.values())
    workers = workers_for(2 * ATTACK_TASK_COST * count, str(model.device), opened.run.workers)
    beyond = [f"{trial.label}, {name}: {why}" for trial, _, _, reasons in planned for name, why in reasons.items()]
    steps = [total.step(name, costs, workers) for name, total in totals.items()]
    return [*steps, *(PlannedStep(f"no attack on {line}") for line in beyond)]


def _rehearsed(trial: Trial, task: AttackTask, costs: _Costs) -> _AttackTotal:
    """Rehearse one search; `task` is of the unedited model, so that the trial's edit need not be in a file."""
    model = trial.subject.base()
    case = replace(task.case(grey_pictures(model)), edit=trial.edit, retrain=own_training(trial.edit, model))
    search = rehearse_search(task.name, json.loads(task.settings), case, costs.draws.of_one_step)
    others = len(case.examples) + (0 if case.unrelated is None else len(case.unrelated[0]))
    return _AttackTotal(search, others)
