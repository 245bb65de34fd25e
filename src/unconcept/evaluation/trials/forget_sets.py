"""Searches for the forget set that is hardest to erase, and judges it beside the easiest one and random ones."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ...core.concept import Concept
from ...core.errors import RequestError
from ...core.text_identity import composed_text
from ...metrics.intervals import Rate, clustered_share
from ...prompts.checks import Check, GroupSizes, JudgedAspect, aspect_of
from ...prompts.text_matching import find_name
from ...report.data_types import RateData
from ...report.forget_set_data import CandidateData, ForgetSetData, ForgetSetsData, SetKind
from ...worlds.table import ConceptTable
from ..attacks.worst_case import SetSearch, SetSearchSettings, random_sets
from ..judging.rates import PairedAnswer, hits_of
from ..suites.registry import Suite
from ..tasks.draw import plan_draws
from ..tasks.edit_task import EditTask, Variant
from ..tasks.edited_model import EditedModel
from ..tasks.runner import TaskTally, run_tasks
from ..tasks.weighed_erasure import WeighedErasure
from ..worlds import World
from .bench import examine_trials, trial_of_task
from .finding import Finding
from .trial import RunContext

CandidateKind = Literal["concept", "prompt"]
WhatIsLeft = Literal["denoising", "judged"]
SET_SIZES = GroupSizes(8, 4)
"""Pictures of each member of a set, and of other concepts for each."""
_SEARCHED_PICTURES = 4  # of each candidate, on noise that no report shows
_TEMPLATES_WANT = 2  # other pictures for each of a concept, for templates to fill all of them


@dataclass(frozen=True)
class ForgetSetPlan:
    """What is searched, and by what."""

    unedited: EditedModel
    variant: Variant
    candidates: tuple[str, ...]
    by: CandidateKind
    loss: WhatIsLeft
    settings: SetSearchSettings
    random: int
    """Random sets at most."""
    seed: int
    suite: Suite
    """Its checks of some candidates ask about them and about others."""

    def named(self, members: Sequence[int]) -> tuple[str, ...]:
        """The candidates of these numbers."""
        return tuple(self.candidates[i] for i in members)

    def erasure(self, label: str, members: Sequence[int], folder: Path = Path()) -> EditTask:
        """The task that erases these candidates together."""
        variant = replace(self.variant, label=label)
        return EditTask(self.unedited, variant, self.named(members), folder)

    def step(self, search: SetSearch, context: RunContext) -> WeighedErasure:
        """The task of a search's next step."""
        erasure = self.erasure("search", range(len(self.candidates)))
        judge = context.judge if self.loss == "judged" else None
        checks = tuple(self.searched_checks(name) for name in self.candidates)
        return WeighedErasure(erasure, tuple(search.weights.tolist()), checks, context.spec, judge)

    def searched_checks(self, name: str) -> tuple[Check, ...]:
        """The checks of one candidate that the search may see."""
        sizes = replace(self.suite.sizes, direct=min(_SEARCHED_PICTURES, self.suite.sizes.direct), tuning=True)
        asked = replace(self.suite, sizes=sizes).checks([name])
        return tuple(check for check in asked if check.group == "direct")

    def random_sets(self) -> list[tuple[int, ...]]:
        """The random sets, as numbers of candidates."""
        return random_sets(len(self.candidates), self.settings.size, self.random, self.seed)

    def sets_to_come(self) -> list[tuple[int, ...]]:
        """As many sets as will be erased: the first and the last candidates stand for the sets that are searched."""
        count, size = len(self.candidates), self.settings.size
        return [tuple(range(size)), tuple(range(count - size, count)), *self.random_sets()]


def set_suite(world: World, candidates: Sequence[str], by: CandidateKind, table: ConceptTable | None) -> Suite:
    """Make the suite that asks about sets of candidates: each member, and others that should stay.

    Raises `RequestError` for a prompt that names no concept of the table.
    """
    ask = _about_concepts(world) if by == "concept" else _about_prompts(candidates, table)
    return Suite("worst-case", "the members of a set of candidates, and others that should stay", SET_SIZES, ask)


def _about_concepts(world: World) -> Callable[[Sequence[str], GroupSizes], list[Check]]:
    def ask(names: Sequence[str], sizes: GroupSizes) -> list[Check]:
        concepts = [Concept(name, "object") for name in names]
        full = replace(sizes, other=max(sizes.other, _TEMPLATES_WANT * sizes.direct))
        own = world.erasure_suite(concepts, (), full).checks(names)
        others = world.erasure_suite(concepts, (), sizes).checks(names)
        direct = [check for check in own if check.group == "direct"]
        return direct + [check for check in others if check.group in ("near", "far")]

    return ask


def _about_prompts(
    candidates: Sequence[str], table: ConceptTable | None
) -> Callable[[Sequence[str], GroupSizes], list[Check]]:
    asked = {text: concept_of_prompt(text, table) for text in candidates}

    def check_of(text: str, sizes: GroupSizes, turn: int, is_member: bool) -> Check:
        concept, by, labels = asked[text]
        return Check(sizes.prompt(text, turn), "direct" if is_member else "near", concept, by, labels)

    def ask(names: Sequence[str], sizes: GroupSizes) -> list[Check]:
        others = [text for text in candidates if text not in names]
        own = [check_of(text, sizes, i, True) for text in names for i in range(sizes.direct)]
        return own + [check_of(text, sizes, 0, False) for text in others]

    return ask


def concept_of_prompt(text: str, table: ConceptTable | None) -> tuple[str, JudgedAspect, tuple[str, ...]]:
    """Return the concept by which a prompt's pictures are judged, its aspect and its labels.

    Of a table it is the object that the prompt names, else its style; without a table the text as it is. `RequestError`
    for a prompt that names nothing of the table.
    """
    if table is None:
        return text, "object", (text,)
    for entries in (table.objects, table.styles):
        span = find_name(composed_text(text), [entry.name for entry in entries])
        if span is not None:
            named = " ".join(composed_text(text)[slice(*span)].casefold().split())
            entry = next(entry for entry in entries if entry.name.casefold() == named)
            return entry.name, aspect_of(entry.kind), entry.labels
    raise RequestError(f"prompt {text!r} names no concept of moji's table, so no judge can tell it: name one in it")


def examine_forget_sets(
    plan: ForgetSetPlan, folder: Path, context: RunContext
) -> tuple[list[Finding], TaskTally, ForgetSetsData | None]:
    """Search for the worst and the easiest set, erase these and random ones, each with an edit of its own, and judge.

    The data are None until both searches are done.
    """
    searches, tally, first = _searched(plan, context)
    if searches is None:
        return [], tally, None
    members: list[tuple[SetKind, str, tuple[int, ...]]] = [
        ("worst", "worst", searches[0].chosen),
        ("easiest", "easiest", searches[1].chosen),
    ]
    members += [("random", f"random {i}", chosen) for i, chosen in enumerate(plan.random_sets(), 1)]
    tasks = [plan.erasure(label, chosen, folder / "edits") for _, label, chosen in members]
    tally += run_tasks(tasks, context.store, context.record, 1, context.deadline, context.tell)
    trials = [trial_of_task(task) for task in tasks if task.is_done(context.store)]
    found, more = examine_trials(trials, plan.suite, context)
    by_label = {finding.label: finding for finding in found}
    sets = [_set_data(plan, kind, label, chosen, by_label.get(label)) for kind, label, chosen in members]
    return found, tally + more, _sets_data(plan, searches, first, sets, by_label)


def _searched(
    plan: ForgetSetPlan, context: RunContext
) -> tuple[tuple[SetSearch, SetSearch] | None, TaskTally, Sequence[float]]:
    """Both searches with their weights after the last step, and the losses where all are erased alike."""
    first: list[float] = []
    tally = TaskTally()
    if plan.loss == "denoising":
        prompts = [check.prompt for name in plan.candidates for check in plan.searched_checks(name)]
        draws = plan_draws(plan.unedited, context.spec, prompts, context.store, context.record)
        tally = run_tasks(draws, context.store, context.record, 1, context.deadline, context.tell)
    count = len(plan.candidates)
    searches = SetSearch(count, plan.settings), SetSearch(count, plan.settings, easiest=True)
    for search in searches:
        for _ in range(plan.settings.outer if tally.complete else 0):
            task = plan.step(search, context)
            tally += run_tasks([task], context.store, context.record, 1, context.deadline, context.tell)
            if not task.is_done(context.store):
                break
            losses = task.losses(context.store)
            first = first or losses.tolist()
            search.advance(losses)
    return (searches if tally.complete else None), tally, first


def _set_data(
    plan: ForgetSetPlan, kind: SetKind, label: str, chosen: Sequence[int], found: Finding | None
) -> ForgetSetData:
    direct = _answers(found, ("direct",))
    others = _answers(found, ("near", "far"))
    before, shown = (_share(plan, direct, side) for side in (0, 1))
    return ForgetSetData(
        kind=kind, label=label, members=plan.named(chosen), before=before, shown=shown, kept=_share(plan, others, 1)
    )


def _answers(found: Finding | None, groups: Sequence[str]) -> list[PairedAnswer]:
    """The answers of some groups; none while one is missing."""
    if found is None or found.answered_trial.missing:
        return []
    return [answer for answer in found.answers if answer.check.group in groups]


def _share(plan: ForgetSetPlan, answers: Sequence[PairedAnswer], side: int) -> RateData | None:
    """The share of pictures before (0) or after (1) that show what is asked, with an interval over what is asked."""
    if not answers:
        return None
    asked = [answer.check.concept if plan.by == "concept" else answer.check.prompt.text for answer in answers]
    return _data(clustered_share(hits_of(answers, side), asked))


def _data(rate: Rate) -> RateData:
    return RateData.model_validate(rate)


def _sets_data(
    plan: ForgetSetPlan,
    searches: tuple[SetSearch, SetSearch],
    first: Sequence[float],
    sets: Sequence[ForgetSetData],
    by_label: dict[str, Finding],
) -> ForgetSetsData:
    worst, easiest = (search.weights.tolist() for search in searches)
    candidates = tuple(
        CandidateData(name=name, weight=worst[i], easiest_weight=easiest[i], loss=first[i])
        for i, name in enumerate(plan.candidates)
    )
    judged = [one for one in sets if one.kind == "random" and one.shown is not None]
    left = [(hit, one.label) for one in judged for hit in hits_of(_answers(by_label.get(one.label), ("direct",)), 1)]
    hardest = sets[0].shown
    return ForgetSetsData(
        by=plan.by,
        loss=plan.loss,
        method=plan.variant.method,
        outer=plan.settings.outer,
        candidates=candidates,
        sets=tuple(sets),
        random_shown=_data(clustered_share([hit for hit, _ in left], [label for _, label in left])) if left else None,
        as_hard=sum(one.shown.value >= hardest.value for one in judged if one.shown) if hardest else 0,
    )
