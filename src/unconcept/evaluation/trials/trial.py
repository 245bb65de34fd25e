"""Runs trials: an edit and the unedited model draw the same prompts from the same noise, and a judge compares."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor

from ...core.progress import ProgressCallback, ignore_progress
from ...edits import Edit
from ...prompts.checks import Check, Prompt
from ...scorers.registry import RawScore
from ..judging.judge import Judge
from ..judging.rates import PairedAnswer
from ..sampling import DrawSpec
from ..suites.registry import Suite
from ..tasks.draw import load_pictures, plan_draws
from ..tasks.edited_model import EditedModel
from ..tasks.picture_store import PictureStore
from ..tasks.runner import TaskRecord, TaskTally, default_workers, run_tasks
from ..tasks.score import plan_scores
from ..tasks.task import Executor, Task


@dataclass(frozen=True)
class Trial:
    """One edit under test, and the concepts that it should erase."""

    label: str
    """Label of its row in tables: the name of the method or of the edit file."""
    concepts: tuple[str, ...]
    subject: EditedModel
    edit: Edit
    """The edit in the subject's file."""
    cost: Mapping[str, float] = field(default_factory=dict)
    """Cost of the edit: seconds, bytes, parameters."""


@dataclass(frozen=True)
class AnsweredTrial:
    """A trial with its checks; `answers` lacks checks whose pictures or scores are missing."""

    trial: Trial
    checks: tuple[Check, ...]
    answers: tuple[PairedAnswer, ...]
    drawn: tuple[Prompt, ...] = ()
    """Prompts that are drawn for the figures alone."""

    @property
    def prompts(self) -> list[Prompt]:
        """Everything that is drawn, each prompt once."""
        return list(dict.fromkeys([*(check.prompt for check in self.checks), *self.drawn]))

    @property
    def missing(self) -> int:
        return len(self.checks) - len(self.answers)


@dataclass(frozen=True)
class RunContext:
    """Store, record, sampler settings, judge and limits of a run."""

    store: PictureStore
    record: TaskRecord
    spec: DrawSpec
    judge: Judge | None
    """The judge; None to draw pictures without counting."""
    workers: int | None = None
    """Number of worker processes; None to choose it by the amount of work."""
    deadline: float | None = None
    tell: ProgressCallback = ignore_progress
    control: EditedModel | None = None
    """A model that never saw the concept, on which rungs of a ladder run too that may teach it."""
    references: Path | None = None
    """The user's folder of real pictures, for distances of sets."""
    executor: Executor | None = None
    """Runs every task; None for `workers` of this machine."""

    def run(self, tasks: Sequence[Task], workers: int = 1, in_time: bool = True) -> TaskTally:
        """Run tasks, in so many workers if they run on this machine; unless `in_time`, after the deadline too."""
        deadline = self.deadline if in_time else None
        return run_tasks(tasks, self.store, self.record, workers, deadline, self.tell, self.executor)


def answer_trials(trials: Sequence[Trial], suite: Suite, context: RunContext) -> tuple[list[AnsweredTrial], TaskTally]:
    """Draw and score what the store lacks; pictures of the unedited model are drawn once for all trials."""
    judge = context.judge
    checks = [suite.checks(trial.concepts) for trial in trials]
    checks = checks if judge is None else [judge.answerable(asked) for asked in checks]
    planned = [
        AnsweredTrial(trial, tuple(asked), (), tuple(suite.drawn(trial.concepts)))
        for trial, asked in zip(trials, checks, strict=True)
    ]
    draws: dict[EditedModel, dict[Prompt, None]] = {}
    for one in planned:
        for subject in (one.trial.subject.unedited, one.trial.subject):
            draws.setdefault(subject, {}).update(dict.fromkeys(one.prompts))
    tasks = [
        task
        for subject, prompts in draws.items()
        for task in plan_draws(subject, context.spec, list(prompts), context.store, context.record)
    ]
    pictures = sum(task.size for task in tasks)
    workers = context.workers or default_workers(pictures, str(trials[0].subject.base().device))
    tally = context.run(tasks, workers)
    if context.judge is None:
        return planned, tally
    wanted = [
        pair
        for trial, asked in zip(trials, checks, strict=True)
        for check in asked
        for pair in _sides(trial, check, context.spec, context.judge)
    ]
    tally += context.run(plan_scores(context.judge, wanted, context.store), in_time=False)
    return [_answered(one, context, context.judge) for one in planned], tally


def image_pairs(trial: Trial, prompts: Sequence[Prompt], context: RunContext) -> dict[Prompt, tuple[Tensor, Tensor]]:
    """Load pictures before and after, for the prompts that have both."""
    before, after = (
        load_pictures(subject, context.spec, prompts, context.store)
        for subject in (trial.subject.unedited, trial.subject)
    )
    return {prompt: (before[prompt], after[prompt]) for prompt in prompts if prompt in before and prompt in after}


def raw_score_pairs(one: AnsweredTrial, context: RunContext, judge: Judge) -> list[tuple[RawScore, RawScore]]:
    """Load the judge's raw scores before and after, one pair per answer."""
    sides = [_sides(one.trial, answer.check, context.spec, judge) for answer in one.answers]
    known = context.store.load_scores(judge.key, [pair for both in sides for pair in both])
    return [(known[before], known[after]) for before, after in sides]


def _sides(trial: Trial, check: Check, spec: DrawSpec, judge: Judge) -> tuple[tuple[str, str], tuple[str, str]]:
    """The (picture, question) pairs before and after."""
    before, after = (subject.picture_key(spec, check.prompt) for subject in (trial.subject.unedited, trial.subject))
    return (before, judge.question(check)), (after, judge.question(check))


def _answered(one: AnsweredTrial, context: RunContext, judge: Judge) -> AnsweredTrial:
    sides = [_sides(one.trial, check, context.spec, judge) for check in one.checks]
    known = context.store.load_scores(judge.key, [pair for both in sides for pair in both])
    answers = []
    for check, (before, after) in zip(one.checks, sides, strict=True):
        if before in known and after in known and all(context.store.has(picture) for picture, _ in (before, after)):
            answers.append(
                PairedAnswer(check, judge.label_of(known[before], check), judge.label_of(known[after], check))
            )
    return replace(one, answers=tuple(answers))
