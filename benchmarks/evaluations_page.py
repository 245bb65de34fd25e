"""docs/evaluations.md, made of kept trials."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from benchmarks.evaluation_suites import HALVES, Measure, Protocol
from benchmarks.kept_trials import KeptTrial
from benchmarks.rank_agreement import (
    Ranking,
    ceiling,
    largest_moves,
    least_correlation,
    pooled_ranks,
    rank_correlation,
    ranking,
)
from benchmarks.results_tables import MISSING
from unconcept.metrics.intervals import clustered_mean
from unconcept.metrics.paired_tests import detectable_change
from unconcept.report.markdown import format_detectable, markdown_table

HEAD = """# Published suites on `{model}`

Every suite that the field publishes and that can run here, on edits under their `{model}` recipes: figures by {judge}
version {version}; unedited and edited model from the same noise, seeds from 1,000,000 on, {steps} steps, guidance
{guidance}. Concepts are `report` concepts, drawn by hash. No figure compares with a published table: model, judge and
prompts are others.

Each suite is drawn in two halves, the same prompts from other noise; no suite shares a picture with another, or a half
with the other. A concept is a cluster: 95 % intervals are over concepts, of both halves together. With three
concepts a test over concepts can find no difference between two methods; what one over prompts can find, for these
concepts only, stands with each suite. No row is the best. How far the diffusion classifier agrees with
moji-judge stands in [judge](judge.md).

Made by `make evaluations` of the rows in `benchmarks/measured/evaluations`; `{missing}` stands where they were not
measured on this world under the present settings.

"""
AGREEMENT = """Spearman's rank correlation of the methods' scores, and in brackets the largest that noise allows: the
root of the product of both suites' reliabilities, each from the correlation of its halves (Spearman-Brown). A suite
scores by its own total; hub, unlearncanvas and speed-few have none and score by the mean of the ranks of what is gone
and what is kept. {methods} methods{least}. These are many correlations at once: a single one proves little.

"""
WHY = """Gone and kept: its correlation with the mean ranks that all other suites give by what should be gone, and by
what should stay. Where a suite follows one of them alone, that is what it measures. The last column names the methods
whose rank here is furthest from that by all others (1: scored highest).

"""


@dataclass(frozen=True)
class Found:
    """Kept trials of one suite by half, and what it should hold."""

    protocol: Protocol
    halves: tuple[tuple[KeptTrial, ...], ...]
    labels: tuple[str, ...]
    """Rows that are always there."""

    @property
    def measured(self) -> list[str]:
        """Labels whose trials are whole in every half: the rows that are always there first."""
        wanted = {*self.protocol.requests()}
        every = dict.fromkeys([*self.labels, *(one.label for half in self.halves for one in half)])
        return [label for label in every if all(self._requests(label, half) >= wanted for half in self.halves)]

    def _requests(self, label: str, half: Sequence[KeptTrial]) -> set[tuple[str, ...]]:
        return {one.concepts for one in half if one.label == label}

    def trials(self, label: str) -> list[KeptTrial]:
        return [one for half in self.halves for one in half if one.label == label]


def page(basis: Mapping[str, Any], found: Sequence[Found], stale: Sequence[str]) -> str:
    """The page."""
    text = HEAD.format(
        model=basis["models"][0],
        judge=basis["judge"][0],
        version=basis["judge"][1],
        steps=basis["drawing"]["steps"],
        guidance=basis["drawing"]["guidance_scale"],
        missing=MISSING,
    )
    if stale:
        text += "Kept rows that are left out:\n\n" + "".join(f"- {line}\n" for line in dict.fromkeys(stale)) + "\n"
    parts = {one.protocol.suite: section(one) for one in found}
    parts["Do suites rank methods alike?"] = agreement(found)
    return text + "\n".join(f"## {title}\n\n{part}" for title, part in parts.items())


def section(found: Found) -> str:
    """One suite: a row a method, a column a figure."""
    protocol, measured = found.protocol, found.measured
    names = "; ".join(", ".join(names) for names in protocol.requests())
    size = f"At most {protocol.limit} prompts a group in each of {len(HALVES)} halves."
    text = f"{protocol.said} Erased: {names}. {size}{detectable_sentence(found)}\n\n"
    heads = [f"{one.title} {'↓' if one.falls else '↑'}" for one in protocol.columns]
    lines = [["", *heads], ["---"] * (1 + len(heads))]
    if measured:
        lines.append(["unedited", *(_cell(one, found.trials(measured[0]), True) for one in protocol.columns)])
    for label in dict.fromkeys([*found.labels, *measured]):
        own = found.trials(label)
        if label in measured:
            lines.append([label, *(_cell(one, own) for one in protocol.columns)])
        else:
            whole = len(protocol.requests()) * len(HALVES)
            lines.append([label, f"{MISSING} ({len(own)} of {whole})", *[""] * (len(heads) - 1)])
    return text + markdown_table(lines)


def detectable_sentence(found: Found) -> str:
    """What a paired test of two methods over all prompts can find, about the targets and about the rest; "" if nothing
    is measured.
    """
    counts = {"targets": 0, "others": 0}
    for one in found.trials(found.measured[0]) if found.measured else ():
        asked = {(answer.check.prompt, answer.check.group == "direct") for answer in one.answers}
        counts["targets"] += sum(is_direct for _, is_direct in asked)
        counts["others"] += sum(not is_direct for _, is_direct in asked)
    said = [
        f"over the {count} prompts about {what} from {format_detectable(detectable_change(count))} points on"
        for what, count in counts.items()
        if count
    ]
    return f" A paired test of two methods finds a difference of shares {', '.join(said)}." if said else ""


def _cell(measure: Measure, trials: Sequence[KeptTrial], before: bool = False) -> str:
    """The mean over edits and halves, with an interval over concepts where there are several."""
    known = [(value, ", ".join(one.concepts)) for one in trials if (value := measure.value(one, before)) is not None]
    if not known:
        return "n/a"
    values, clusters = zip(*known, strict=True)
    if len({*clusters}) == 1:
        return _number(sum(values) / len(values))
    mean = clustered_mean(values, clusters)
    return f"{_number(mean.value)} [{_number(mean.low)}, {_number(mean.high)}]"


def _number(value: float) -> str:
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def agreement(found: Sequence[Found]) -> str:
    """Rank correlations of all suites that have three methods or more, and which suite ranks differently."""
    shared = [label for label in _every_label(found) if all(label in one.measured for one in found)]
    rankings = [ranking(one.protocol, one.halves, shared or one.measured) for one in found]
    known = [one for one in rankings if one.reliability is not None]
    if len(known) < 2:
        return f"{MISSING[0].upper()}{MISSING[1:]}: two suites with three methods are needed.\n"
    methods = min(len(one.own) for one in known)
    least = least_correlation(methods)
    said = "" if least is None else f"; from {least:.2f} on a correlation of so many differs from 0 at p = 0.05"
    text = AGREEMENT.format(methods=methods, least=said) + _matrix(known) + "\n"
    return f"{text}### Which suite ranks differently, and why\n\n{WHY}{_differences(known)}\n{_most_different(known)}"


def _every_label(found: Sequence[Found]) -> list[str]:
    return list(dict.fromkeys(label for one in found for label in one.measured))


def _matrix(rankings: Sequence[Ranking]) -> str:
    """Correlations between suites; on the diagonal each suite's reliability."""
    lines = [["", *(one.suite for one in rankings)], ["---"] * (1 + len(rankings))]
    for one in rankings:
        cells = [f"**{_share(one.reliability)}**" if one is other else _pair(one, other) for other in rankings]
        lines.append([one.suite, *cells])
    return markdown_table(lines)


def _pair(one: Ranking, other: Ranking) -> str:
    return f"{_share(rank_correlation(one.own, other.own))} ({_share(ceiling(one, other))})"


def _share(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.2f}"


def _differences(rankings: Sequence[Ranking]) -> str:
    """A row a suite: its mean correlation with others and the mean ceiling, which side it follows, what moves."""
    heads = ["suite", "with others", "ceiling", "gone", "kept", "moves most"]
    lines = [heads, ["---"] * len(heads)]
    for one in rankings:
        sides = [rank_correlation(one.own, pooled_ranks(rankings, side, one.suite)) for side in ("gone", "kept")]
        moved = [f"{label} {here:.3g} instead of {there:.3g}" for label, here, there in largest_moves(one, rankings)]
        means = [_share(mean_correlation(one, rankings)), _share(_mean_ceiling(one, rankings))]
        lines.append([one.suite, *means, *map(_share, sides), "; ".join(moved) or "none"])
    return markdown_table(lines)


def mean_correlation(one: Ranking, rankings: Sequence[Ranking]) -> float | None:
    """Of one suite with all others."""
    known = [
        value for other in rankings if other is not one and (value := rank_correlation(one.own, other.own)) is not None
    ]
    return sum(known) / len(known) if known else None


def _mean_ceiling(one: Ranking, rankings: Sequence[Ranking]) -> float | None:
    known = [value for other in rankings if other is not one and (value := ceiling(one, other)) is not None]
    return sum(known) / len(known) if known else None


def _most_different(rankings: Sequence[Ranking]) -> str:
    """Name the suite that agrees least with the others, against its ceiling, and the pair that agrees least."""
    gaps = {}
    for one in rankings:
        mean, most = mean_correlation(one, rankings), _mean_ceiling(one, rankings)
        if mean is not None and most is not None:
            gaps[one.suite] = most - mean
    if not gaps:
        return ""
    pairs = {(a.suite, b.suite): rank_correlation(a.own, b.own) for a, b in combinations(rankings, 2)}
    known = {names: value for names, value in pairs.items() if value is not None}
    suite, (pair, value) = max(gaps, key=gaps.__getitem__), min(known.items(), key=lambda item: item[1])
    return (
        f"{suite} is furthest below what noise allows, by {gaps[suite]:.2f} in the mean; {pair[0]} and {pair[1]} agree"
        f" least ({value:.2f}).\n"
    )
