"""Pools the findings of each variant over its edits, for tables."""

from collections.abc import Mapping, Sequence

from ...prompts.sets import PromptGroup
from ...report.data import AttackData, GroupData
from ...report.markdown import VariantRows
from ..judging.rates import GroupRow, group_rates
from .finding import Finding

_FALLING_GROUPS = ("direct", "synonym", "paraphrase", "indirect", "other-language")  # groups whose rates should fall


def group_by_label(findings: Sequence[Finding]) -> dict[str, list[Finding]]:
    """Group findings by variant, in the order in which variants first appear."""
    grouped: dict[str, list[Finding]] = {}
    for finding in findings:
        grouped.setdefault(finding.answered_trial.trial.label, []).append(finding)
    return grouped


def variant_rows(findings: Sequence[Finding]) -> list[VariantRows]:
    """Make one row of results per variant."""
    return [_rows(label, group) for label, group in group_by_label(findings).items()]


def pooled_group_rates(findings: Sequence[Finding]) -> list[GroupRow]:
    """Compute rates by group over all edits of one variant.

    Intervals resample edits, by the concepts that each erased; with one edit, the concepts of its prompts.
    """
    if len(findings) > 1:
        answers = [(answer, _erased(finding)) for finding in findings for answer in finding.answered_trial.answers]
    else:
        answers = [(answer, answer.check.concept) for answer in findings[0].answered_trial.answers]
    single = len(findings) == 1 and len(findings[0].answered_trial.trial.concepts) == 1
    return group_rates([answer for answer, _ in answers], None if single else [name for _, name in answers])


def _rows(label: str, findings: Sequence[Finding]) -> VariantRows:
    groups = {row.group: GroupData.model_validate(row) for row in pooled_group_rates(findings)}
    costs = [finding.answered_trial.trial.cost for finding in findings]
    rows = [row for finding in findings for row in finding.attack_results]
    return VariantRows(
        label=label,
        groups=groups,
        worst={group: _worst(findings, group) for group in groups},
        cost={name: _mean(name, costs) for name in ("seconds", "bytes")},
        attacks=[AttackData.model_validate(row) for row in rows],
        out_of_reach={name: reason for finding in findings for name, reason in finding.out_of_reach.items()},
    )


def _worst(findings: Sequence[Finding], group: PromptGroup) -> str:
    """The worst edit in a group: the one that leaves most of its target, or that loses most of what should stay."""
    falls = group in _FALLING_GROUPS
    scores: dict[str, float] = {}
    for finding in findings:
        shown = [a.hits for a in finding.answered_trial.answers if a.check.group == group]
        if shown:
            scores[_erased(finding)] = sum(after - (0 if falls else before) for before, after in shown) / len(shown)
    worst = (max if falls else min)(scores, key=scores.__getitem__)
    return f"{worst} {scores[worst]:+.0%}"


def _erased(finding: Finding) -> str:
    return ", ".join(finding.answered_trial.trial.concepts)


def _mean(name: str, costs: Sequence[Mapping[str, float]]) -> float | None:
    known = [cost[name] for cost in costs if name in cost]
    return sum(known) / len(known) if known else None
