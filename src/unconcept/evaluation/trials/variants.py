"""Pools the trials of each variant over its edits, for tables."""

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

from ...prompts.sets import PromptGroup
from ...report.data import AttackData, GroupData
from ...report.markdown import VariantRows
from ..attacks.rates import AttackRow
from ..judging.rates import GroupRow, PairedAnswer, group_rates

_FALLING_GROUPS = ("direct", "synonym", "paraphrase", "indirect", "other-language")  # groups whose rates should fall


class TrialAnswers(Protocol):
    """What tables need of a trial: a run's `Finding`, or what was kept of one."""

    @property
    def label(self) -> str:
        """Label of its row."""

    @property
    def concepts(self) -> tuple[str, ...]:
        """The concepts that the edit erases."""

    @property
    def cost(self) -> Mapping[str, float]:
        """Seconds and bytes of the edit, as far as they are known."""

    @property
    def answers(self) -> Sequence[PairedAnswer]:
        """The judge's answers before and after."""

    @property
    def attack_results(self) -> Sequence[AttackRow | AttackData]:
        """Results of the attacks on the edit."""

    @property
    def out_of_reach(self) -> Mapping[str, str]:
        """Attacks that cannot act on the edit: name and reason."""


_Trial = TypeVar("_Trial", bound=TrialAnswers)


def group_by_label(trials: Sequence[_Trial]) -> dict[str, list[_Trial]]:
    """Group trials by variant, in the order in which variants first appear."""
    grouped: dict[str, list[_Trial]] = {}
    for trial in trials:
        grouped.setdefault(trial.label, []).append(trial)
    return grouped


def variant_rows(trials: Sequence[TrialAnswers]) -> list[VariantRows]:
    """Make one row of results per variant."""
    return [_rows(label, group) for label, group in group_by_label(trials).items()]


def pooled_group_rates(trials: Sequence[TrialAnswers]) -> list[GroupRow]:
    """Compute rates by group over all edits of one variant.

    Intervals resample edits, by the concepts that each erased; with one edit, the concepts of its prompts.
    """
    if len(trials) > 1:
        answers = [(answer, _erased(trial)) for trial in trials for answer in trial.answers]
    else:
        answers = [(answer, answer.check.concept) for answer in trials[0].answers]
    single = len(trials) == 1 and len(trials[0].concepts) == 1
    return group_rates([answer for answer, _ in answers], None if single else [name for _, name in answers])


def _rows(label: str, trials: Sequence[TrialAnswers]) -> VariantRows:
    groups = {row.group: GroupData.model_validate(row) for row in pooled_group_rates(trials)}
    costs = [trial.cost for trial in trials]
    rows = [row for trial in trials for row in trial.attack_results]
    return VariantRows(
        label=label,
        groups=groups,
        worst={group: _worst(trials, group) for group in groups},
        cost={name: _mean(name, costs) for name in ("seconds", "bytes")},
        attacks=[AttackData.model_validate(row) for row in rows],
        out_of_reach={name: reason for trial in trials for name, reason in trial.out_of_reach.items()},
    )


def _worst(trials: Sequence[TrialAnswers], group: PromptGroup) -> str:
    """The worst edit in a group: the one that leaves most of its target, or that loses most of what should stay."""
    falls = group in _FALLING_GROUPS
    scores: dict[str, float] = {}
    for trial in trials:
        shown = [a.hits for a in trial.answers if a.check.group == group]
        if shown:
            scores[_erased(trial)] = sum(after - (0 if falls else before) for before, after in shown) / len(shown)
    worst = (max if falls else min)(scores, key=scores.__getitem__)
    return f"{worst} {scores[worst]:+.0%}"


def _erased(trial: TrialAnswers) -> str:
    return ", ".join(trial.concepts)


def _mean(name: str, costs: Sequence[Mapping[str, float]]) -> float | None:
    known = [cost[name] for cost in costs if name in cost]
    return sum(known) / len(known) if known else None
