"""The page of the continual experiment."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from benchmarks import known_faults

CLOSED = ("uce", "speed", "adavd")  # methods whose ledgers are compared; the last steers
SHARES = ("UA", "RA-I", "RA-C")


def page(
    points: Sequence[Mapping[str, Any]],
    n: int,
    docs: Path,
    many: bool = False,
    sheets: Mapping[tuple[str, str], str] = MappingProxyType({}),
) -> str:
    """Tables of all steps, a section for each sequence and method, with three curves and its contact sheet each."""
    steps, made = (
        ", ".join(map(str, sorted({point["step"] for point in points}))),
        "python -m benchmarks.continual --many" if many else "make continual",
    )
    faults = known_faults.CONTINUAL_MANY if many else known_faults.CONTINUAL
    head = HEAD.format(n=n, steps=steps, before=_before(points), made=made)
    text = [f"{head}\n{faults.rstrip()}\n", MANY if many else ARMS]
    for sequence, method in dict.fromkeys((point["sequence"], point["method"]) for point in points):
        part = [point for point in points if (point["sequence"], point["method"]) == (sequence, method)]
        files = {name: f"continual-{sequence}-{method}-{name.lower()}.svg" for name in SHARES}
        for name, file in files.items():
            (docs / file).write_text(curves(part, name), encoding="utf-8")
        shown = "\n".join(f"![{name} after each request]({file})" for name, file in files.items())
        text += [f"## {method} on {sequence}", shown, sheets.get((sequence, method), "")]
        text += [table_of(part), detectable(part, n)]
        text += [same(part)] if method in CLOSED else []
    return "\n\n".join(block.strip() for block in text if block) + "\n"


def curves(points: Sequence[Mapping[str, Any]], name: str) -> str:
    from unconcept.report.svg import share_curves_svg

    series: dict[str, list[tuple[float, float]]] = {}
    for point in points:
        series.setdefault(point["arm"], []).append((point["step"], point["figures"][name]["value"]))
    return share_curves_svg(series, "requests", name)


def table_of(points: Sequence[Mapping[str, Any]]) -> str:
    """A line a point; 95 % intervals over concepts."""
    from unconcept.report.markdown import markdown_table

    head = ("arm", "requests", *SHARES, "H", "n", "drift", "s")
    lines = [head, ("---",) * len(head)]
    for point in points:
        figures = point["figures"]
        cells = [
            f"{figures[name]['value']:.1%} [{figures[name]['interval'][0]:.0%}, {figures[name]['interval'][1]:.0%}]"
            for name in SHARES
        ]
        counts = " + ".join(str(figures[name]["n"]) for name in SHARES)
        lines.append(
            (
                point["arm"],
                str(point["step"]),
                *cells,
                f"{figures['H']['value']:.1%}",
                counts,
                f"{point['drift']:.3f}",
                f"{point['seconds']:,.0f}",
            )
        )
    return markdown_table(lines)


def detectable(points: Sequence[Mapping[str, Any]], pictures: int) -> str:
    """The difference that a paired test of two arms could have found, at the last step."""
    from unconcept.metrics.paired_tests import detectable_change
    from unconcept.report.markdown import format_detectable

    counts = {name: points[-1]["figures"][name]["n"] // pictures for name in SHARES}
    shares = [
        f"{name} {format_detectable(detectable_change(count))} ({count} concepts)" for name, count in counts.items()
    ]
    return (
        "The smallest true difference between two arms, in points, that a paired test over concepts finds in 80 % of"
        f" cases, if each concept changes as a whole: {', '.join(shares)}.\n"
    )


def same(points: Sequence[Mapping[str, Any]]) -> str:
    """Whether the ledger's edits are those of erasing at once, and what they cost retention at the last step."""
    edits = {(point["arm"], point["step"]): point["edit"] for point in points}
    steps = sorted({step for arm, step in edits if ("ledger", step) in edits and ("simultaneous", step) in edits})
    if not steps:
        return ""
    alike = [step for step in steps if edits["ledger", step] == edits["simultaneous", step]]
    last = next(point for point in points if (point["arm"], point["step"]) == ("ledger", steps[-1]))["figures"]
    lost = ", ".join(f"{name} {100 * (last[name]['value'] - last[name]['before']):+.1f} points" for name in SHARES[1:])
    return (
        f"The ledger's edit is byte for byte the one of erasing all at once after {len(alike)} of {len(steps)} steps;"
        f" after {steps[-1]} requests {lost}.\n"
    )


def _before(points: Sequence[Mapping[str, Any]]) -> str:
    last = {point["sequence"]: point["figures"] for point in points}
    shown = []
    for sequence, figures in last.items():
        shares = ", ".join(f"{name} {figures[name]['before']:.1%}" for name in SHARES)
        shown.append(f"{sequence}: {shares}")
    return "; ".join(shown)


HEAD = """# Requests one by one

The experiment of arXiv:2511.07970 on `moji`: requests to erase come one after another, and after {steps} of them it \
is asked what is
gone and what is left. UA: 1 - accuracy on all concepts erased so far; RA-I and RA-C: accuracy on held-out concepts \
of their domain and of
the other; H their harmonic mean. {n} pictures a concept, the same prompts and noise at every step and for every arm, \
seeds from
1,000,000 on, `report` concepts; 95 % intervals over concepts. Drift is |W' - W| / |W| of what was changed. Seconds \
are the clock's,
of all trainings that a state is made of. Unedited (at the last step): {before}. Made by `{made}`.
"""
ARMS = """
`sequential` trains each request on top of the last, `simultaneous` all of them at once from the unedited model, with \
the steps that a
training on so many targets has; merges are of trainings of each request alone. The regularisers act in a \
sequence, under the weights of
`benchmarks/continual.toml`, which also shortens Sculpting Memory's recipe. `ledger + N captions` retains N everyday \
captions beside the table's texts.
"""
MANY = """
The ledgers of the closed forms alone, whose edit is that of erasing all at once; `ledger + N captions` retains N \
everyday captions beside the
table's texts. Each object is three texts, and `moji`'s texts have 384 dimensions: 100 objects take 78 % of them, as \
crowd.md says more of.
"""
