"""Makes Markdown tables for documents: variants by prompt group, and attacks by variant, with intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..attacks import ACCESS_LEVELS
from ..attacks import attacks as known_attacks
from ..core.escapes import markdown_text
from ..metrics.intervals import Rate, clopper_pearson
from ..metrics.paired_tests import detectable_change
from ..prompts.sets import GROUP_NAMES, PROMPT_GROUPS, PromptGroup
from .data import AttackData, GroupData
from .data_types import RateData

DETECTABLE_MEANING = (
    "Detectable: the smallest true change that the paired test finds in 80 % of cases, corrected for the number of"
    " groups, if all of it goes one way and the prompts of one concept change together; a test that can find none"
    " prints no p."
)


@dataclass(frozen=True)
class VariantRows:
    """Results of one variant over all of its edits."""

    label: str
    groups: Mapping[PromptGroup, GroupData]
    """Rates, pooled over the edits."""
    worst: Mapping[PromptGroup, str]
    """The worst edit in each group, with its change."""
    cost: Mapping[str, float | None]
    """Mean seconds and bytes of an edit."""
    attacks: Sequence[AttackData] = ()
    out_of_reach: Mapping[str, str] = field(default_factory=dict)
    """Attacks that cannot act on the variant's edits: name and reason."""


def results_table(variants: Sequence[VariantRows]) -> str:
    """Make a table with one row per variant, the unedited model first: shares of pictures that show what their prompt
    asks for.
    """
    asked = {group for one in variants for group in one.groups}
    groups = [group for group in PROMPT_GROUPS if group in asked]
    first = variants[0].groups
    head = ["", *(GROUP_NAMES[group] for group in groups), "nothing", "seconds", "bytes"]
    before = [format_rate(first[group].before) if group in first else "n/a" for group in groups]
    lines = [head, ["---"] * len(head), ["unedited", *before, "", "", ""]]
    for one in variants:
        after = [format_rate(one.groups[group].after) if group in one.groups else "n/a" for group in groups]
        nothing = f"{one.groups['direct'].nothing.value:.1%}" if "direct" in one.groups else ""
        lines.append(
            [markdown_text(one.label), *after, nothing, *(_amount(one.cost.get(name)) for name in ("seconds", "bytes"))]
        )
    counts = [
        f"{first[group].after.n} ({first[group].after.clusters or 1})" if group in first else "" for group in groups
    ]
    lines.append(["n (concepts)", *counts, "", "", ""])
    smallest = [format_detectable(first[group].detectable) if group in first else "" for group in groups]
    lines.append(["detectable change, points", *smallest, "", "", ""])
    return markdown_table(lines)


def change_table(variants: Sequence[VariantRows]) -> str:
    """Make a table of the paired change of each group, in points, with the worst concept and the share of the edited
    model's pictures in which the judge recognises nothing.
    """
    head = ["", "group", "change, points", "p (Holm)", "detectable", "worst erased concept", "nothing", "n"]
    lines = [head, ["---"] * len(head)]
    for one in variants:
        name = markdown_text(one.label)
        for group, row in one.groups.items():
            change = f"{100 * row.change.value:+.1f} [{100 * row.change.low:+.1f}, {100 * row.change.high:+.1f}]"
            share = f"{row.nothing.value:.1%}"
            worst, tested = markdown_text(one.worst[group]), [format_p(row.p), format_detectable(row.detectable)]
            lines.append([name, group, change, *tested, worst, share, str(row.after.n)])
    return markdown_table(lines)


def attacks_table(variants: Sequence[VariantRows]) -> str:
    """Make a table of attacks, pooled over concepts and ordered by the access that they need.

    For one variant a row is an attack. For several a row is a variant, and a cell is "ASR (floor, nothing)". An attack
    that cannot act on a variant's edits is n/a there, and the reason stands below the table; if it can act on some of
    them, the cell has its own n.
    """
    rungs = {row.attack: str(row.rung) for one in variants for row in one.attacks}
    rungs |= {name: known_attacks[name].rung for one in variants for name in one.out_of_reach}
    names = sorted(rungs, key=lambda name: (ACCESS_LEVELS.index(rungs[name]), name))
    by_attack = {one.label: _by_attack(one.attacks, names) for one in variants}
    first = by_attack[variants[0].label]
    ceilings = {name: format_rate(_ceiling(by_attack, name)) for name in names}
    if len(variants) == 1:
        lines = [["attack", "rung", "ceiling", "unattacked", "floor", "ASR", "nothing", "seconds a prompt", "n"]]
        for name in names:
            lines.append(
                [markdown_text(name), rungs[name], ceilings[name], *_attacked(first[name]), str(_count(first[name]))]
            )
    else:
        titles = [f"{markdown_text(name)} ({rungs[name]})" for name in names]
        lines = [["", "unattacked", *titles, "seconds a prompt, in all", "n"]]
        lines.append(["ceiling, unedited", "", *ceilings.values(), "", ""])
        for label, every in by_attack.items():
            beyond = next(one.out_of_reach for one in variants if one.label == label)
            lines.append([markdown_text(label), *_resisted(every, beyond), str(max(map(_count, every.values())))])
    table = markdown_table([lines[0], ["---"] * len(lines[0]), *lines[1:]])
    return f"{table}\n{_detectable_success(variants)}\n{_controls(variants)}{_reasons(variants)}"


def _controls(variants: Sequence[VariantRows]) -> str:
    """Say below a table of attacks how often their controls show the concept, and what share their floor has."""
    lines = []
    for one in variants:
        for name, rows in _by_attack(one.attacks).items():
            rates: dict[str, list[RateData]] = {}
            for control in (control for row in rows for control in row.controls):
                rates.setdefault(control.name, []).append(control.rate)
            pooled = [f"{control} {format_rate(_pool(found))}" for control, found in rates.items()]
            floor, success = _pool([row.floor for row in rows]), _pool([row.success for row in rows])
            if floor and success and success.value:
                pooled.append(f"its floor has {floor.value / success.value:.0%} of its successes")
            lines += [f"\nBeside {name} on {markdown_text(one.label)}: {'; '.join(pooled)}.\n"] if rates else []
    return "".join(lines)


def _detectable_success(variants: Sequence[VariantRows]) -> str:
    """Say below a table of attacks which difference between two of its rates could have been found."""
    prompts = max((_count(rows) for one in variants for rows in _by_attack(one.attacks).values()), default=0)
    if not prompts:
        return ""
    smallest = detectable_change(prompts)
    if smallest is None:
        return f"On {prompts} prompts no paired test can tell two of these rates apart."
    return (
        f"On {prompts} prompts a paired test of two of these rates finds a true difference of"
        f" {100 * smallest:.0f} points or more in 80 % of cases."
    )


def _reasons(variants: Sequence[VariantRows]) -> str:
    """Say below a table why some of its attacks are n/a."""
    lines = [f"{markdown_text(one.label)}: {reason}." for one in variants for reason in one.out_of_reach.values()]
    return "".join(f"\nn/a for {line}\n" for line in dict.fromkeys(lines))


def format_p(p: float | None) -> str:
    """Format a p-value; "n/a" for a test that cannot be significant on so few."""
    return "n/a" if p is None else f"{p:.2g}"


def format_detectable(share: float | None) -> str:
    """Format the smallest change that a test can find, in points; "none" if it can find none."""
    return "none" if share is None else f"{100 * share:.0f}"


def format_rate(rate: Rate | RateData | None) -> str:
    """Format a share with its interval."""
    return "n/a" if rate is None else str(rate)


def markdown_table(lines: Sequence[Sequence[str]]) -> str:
    """Format cells as a Markdown table; the second line must be the rule under the head."""
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _by_attack(rows: Sequence[AttackData], names: Sequence[str] = ()) -> dict[str, list[AttackData]]:
    found: dict[str, list[AttackData]] = {name: [] for name in names}
    for row in rows:
        found.setdefault(row.attack, []).append(row)
    return found


def _attacked(rows: Sequence[AttackData]) -> list[str]:
    """The cells of one attack on one variant."""
    success = format_rate(_pool([row.success for row in rows]))
    return [_share(rows, "pre"), _share(rows, "floor"), success, _share(rows, "nothing"), f"{_seconds(rows):.1f}"]


def _resisted(every: Mapping[str, Sequence[AttackData]], beyond: Mapping[str, str]) -> list[str]:
    """The cells of one variant under every attack; `beyond` names those that cannot act on all of its edits."""
    cells = []
    for name, rows in every.items():
        if not rows:
            cells.append("n/a")
            continue
        success = format_rate(_pool([row.success for row in rows]))
        fewer = f", n {_count(rows)}" if name in beyond else ""
        cells.append(f"{success} ({_share(rows, 'floor')}, {_share(rows, 'nothing')}{fewer})")
    tried = next(filter(None, every.values()), [])
    return [_share(tried, "pre"), *cells, f"{sum(map(_seconds, every.values())):.0f}"]


def _ceiling(by_attack: Mapping[str, Mapping[str, Sequence[AttackData]]], name: str) -> Rate | None:
    """The rate of an attack on the unedited model, from the first variant that has it."""
    for every in by_attack.values():
        rate = _pool([row.ceiling for row in every[name] if row.ceiling])
        if rate is not None:
            return rate
    return None


def _count(rows: Sequence[AttackData]) -> int:
    return sum(row.success.n for row in rows)


def _seconds(rows: Sequence[AttackData]) -> float:
    """Mean seconds of search per prompt."""
    return sum(row.seconds for row in rows) / max(1, _count(rows))


def _pool(rates: Sequence[RateData]) -> Rate | None:
    hits, n = sum(round(rate.value * rate.n) for rate in rates), sum(rate.n for rate in rates)
    return clopper_pearson(hits, n) if n else None


def _share(rows: Sequence[AttackData], name: str) -> str:
    rates = [getattr(row, name) for row in rows]
    rate = _pool(rates) if None not in rates else None
    return f"{rate.value:.0%}" if rate else "n/a"


def _amount(mean: float | None) -> str:
    if mean is None:
        return ""
    return f"{mean:,.0f}" if mean >= 100 else f"{mean:.2f}"
