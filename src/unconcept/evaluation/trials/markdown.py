"""Tables for documents: methods by groups, and attacks by methods, pooled over concepts, with intervals."""

from collections.abc import Iterable, Mapping, Sequence

from ...attacks import ACCESS_LEVELS, attacks
from ...metrics.intervals import Rate, clopper_pearson
from ...prompts.sets import PROMPT_GROUPS, PromptGroup
from ..attacks.rates import AttackRow
from ..judging.rates import GroupRow, group_rates
from .finding import Finding

_FALLING_GROUPS = ("direct", "synonym", "paraphrase", "indirect", "other-language")  # groups that erasing shall lower
_GROUP_TITLES = {"direct": "target", "synonym": "held-out synonyms", "near": "held-out near", "style": "other styles"}


def group_by_label(findings: Sequence[Finding]) -> dict[str, list[Finding]]:
    """Findings of each arm, in the order of their first."""
    grouped: dict[str, list[Finding]] = {}
    for finding in findings:
        grouped.setdefault(finding.answered_trial.trial.label, []).append(finding)
    return grouped


def pooled_group_rates(findings: Sequence[Finding]) -> list[GroupRow]:
    """Groups' rates over all edits of one arm.

    Intervals resample what each edit erased; of one edit, the concepts that prompts are about.
    """
    if len(findings) > 1:
        answers = [(answer, _erased(finding)) for finding in findings for answer in finding.answered_trial.answers]
    else:
        answers = [(answer, answer.check.concept) for answer in findings[0].answered_trial.answers]
    single = len(findings) == 1 and len(findings[0].answered_trial.trial.concepts) == 1
    return group_rates([answer for answer, _ in answers], None if single else [name for _, name in answers])


def results_table(findings: Sequence[Finding]) -> str:
    """One row an arm, first the unedited model: share of pictures that show what their prompt asks."""
    arms = {
        label: {row.group: row for row in pooled_group_rates(group)}
        for label, group in group_by_label(findings).items()
    }
    groups = [group for group in PROMPT_GROUPS if any(group in rows for rows in arms.values())]
    first = next(iter(arms.values()))
    counts = {group: first[group].after for group in groups if group in first}
    head = ["", *(_GROUP_TITLES.get(group, group) for group in groups), "nothing", "seconds", "bytes"]
    lines = [head, ["---"] * len(head)]
    lines.append(
        ["unedited", *(format_rate(first[group].before) if group in first else "n/a" for group in groups), "", "", ""]
    )
    for label, rows in arms.items():
        cost = [
            _mean(finding.answered_trial.trial.cost.get(name) for finding in group_by_label(findings)[label])
            for name in ("seconds", "bytes")
        ]
        nothing = f"{rows['direct'].nothing.value:.1%}" if "direct" in rows else ""
        lines.append(
            [label, *(format_rate(rows[group].after) if group in rows else "n/a" for group in groups), nothing, *cost]
        )
    lines.append(
        [
            "n (concepts)",
            *(f"{counts[group].n} ({counts[group].clusters or 1})" if group in counts else "" for group in groups),
            "",
            "",
            "",
        ]
    )
    return markdown_table(lines)


def change_table(findings: Sequence[Finding]) -> str:
    """Paired change of each group, in points, with the worst concept and the share of the edited model's pictures that
    show nothing known.
    """
    lines = [["", "group", "change, points", "p (Holm)", "worst erased concept", "nothing", "n"], ["---"] * 7]
    for label, group in group_by_label(findings).items():
        for row in pooled_group_rates(group):
            change = f"{100 * row.change.value:+.1f} [{100 * row.change.low:+.1f}, {100 * row.change.high:+.1f}]"
            lines.append(
                [
                    label,
                    row.group,
                    change,
                    f"{row.p:.2g}",
                    _worst(group, row.group),
                    f"{row.nothing.value:.1%}",
                    str(row.after.n),
                ]
            )
    return markdown_table(lines)


def attacks_table(findings: Sequence[Finding]) -> str:
    """Attacks by rung, pooled over concepts: of one arm a row an attack; of several a row an arm, where a cell is ASR
    (floor, nothing known).
    """
    arms = {
        label: [row for finding in group for row in finding.attack_results]
        for label, group in group_by_label(findings).items()
    }
    names = sorted(
        {row.attack for rows in arms.values() for row in rows},
        key=lambda name: (ACCESS_LEVELS.index(attacks[name].rung), name),
    )
    by_attack = {
        label: {name: [row for row in rows if row.attack == name] for name in names} for label, rows in arms.items()
    }
    first = next(iter(by_attack.values()))
    ceilings = {name: format_rate(_pool([row.ceiling for row in first[name] if row.ceiling])) for name in names}
    if len(arms) == 1:
        lines = [["attack", "rung", "ceiling", "unattacked", "floor", "ASR", "nothing", "seconds a prompt", "n"]]
        lines += [
            [name, attacks[name].rung, ceilings[name], *_attacked(first[name]), str(_count(first[name]))]
            for name in names
        ]
    else:
        lines = [
            ["", "unattacked", *(f"{name} ({attacks[name].rung})" for name in names), "seconds a prompt, in all", "n"]
        ]
        lines.append(["ceiling, unedited", "", *ceilings.values(), "", ""])
        lines += [
            [label, *_resisted(by_attack[label]), str(max(map(_count, by_attack[label].values())))] for label in arms
        ]
    return markdown_table([lines[0], ["---"] * len(lines[0]), *lines[1:]])


def _attacked(rows: Sequence[AttackRow]) -> list[str]:
    """One attack on one arm."""
    success = format_rate(_pool([row.success for row in rows]))
    return [_share(rows, "pre"), _share(rows, "floor"), success, _share(rows, "nothing"), f"{_seconds(rows):.1f}"]


def _resisted(every: Mapping[str, Sequence[AttackRow]]) -> list[str]:
    """One arm under every attack."""
    cells = [
        f"{format_rate(_pool([row.success for row in rows]))} ({_share(rows, 'floor')}, {_share(rows, 'nothing')})"
        for rows in every.values()
    ]
    return [_share(next(iter(every.values())), "pre"), *cells, f"{sum(map(_seconds, every.values())):.0f}"]


def _count(rows: Sequence[AttackRow]) -> int:
    return sum(row.success.n for row in rows)


def _seconds(rows: Sequence[AttackRow]) -> float:
    """Of search, a prompt."""
    return sum(row.seconds for row in rows) / max(1, _count(rows))


def _pool(rates: Sequence[Rate]) -> Rate | None:
    hits, n = sum(round(rate.value * rate.n) for rate in rates), sum(rate.n for rate in rates)
    return clopper_pearson(hits, n) if n else None


def _share(rows: Sequence[AttackRow], name: str) -> str:
    rates = [getattr(row, name) for row in rows]
    rate = None if None in rates else _pool(rates)
    return f"{rate.value:.0%}" if rate else "n/a"


def _worst(findings: Sequence[Finding], group: PromptGroup) -> str:
    """The edit that leaves most of its target, where it shall be gone, or that loses most of what shall stay."""
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


def format_rate(rate: Rate | None) -> str:
    """A share with its interval."""
    return "n/a" if rate is None else f"{rate.value:.1%} [{rate.low:.1%}, {rate.high:.1%}]"


def _mean(values: Iterable[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return ""
    mean = sum(known) / len(known)
    return f"{mean:,.0f}" if mean >= 100 else f"{mean:.2f}"


def markdown_table(lines: Sequence[Sequence[str]]) -> str:
    """A table of cells in Markdown; the second line is the rule under the head."""
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
