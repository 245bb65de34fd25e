"""Whether suites rank methods alike: rank correlations between suites on disjoint pictures, beside what their own
halves allow.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.evaluation_suites import Measure, Protocol
from benchmarks.kept_trials import KeptTrial
from unconcept.metrics.intervals import student_quantile

FEWEST = 3  # methods of a rank correlation
Scores = Mapping[str, float]  # by method; more is better


@dataclass(frozen=True)
class Ranking:
    """How one suite scores methods: in all, by what is gone, by what is kept; and each half by itself."""

    suite: str
    own: Scores
    gone: Scores
    kept: Scores
    halves: tuple[Scores, ...]

    @property
    def reliability(self) -> float | None:
        """Correlation of both halves, stepped up to the whole (Spearman-Brown); None if there are too few methods."""
        one, other = self.halves
        half = rank_correlation(one, other)
        return None if half is None else max(0.0, 2 * half / (1 + half)) if half > -1 else 0.0


def ranking(protocol: Protocol, halves: Sequence[Sequence[KeptTrial]], labels: Sequence[str]) -> Ranking:
    """The scores of the methods whose trials are whole in every half."""
    every = [trial for half in halves for trial in half]
    gone, kept = (side_scores(measure, every, labels) for measure in (protocol.gone, protocol.kept))
    own = own_scores(protocol, every, labels)
    return Ranking(protocol.suite, own, gone, kept, tuple(own_scores(protocol, half, labels) for half in halves))


def own_scores(protocol: Protocol, trials: Sequence[KeptTrial], labels: Sequence[str]) -> dict[str, float]:
    """By the suite's own total; without one, the mean of the ranks of its two sides."""
    if protocol.own is not None:
        return side_scores(protocol.own, trials, labels)
    sides = [side_scores(measure, trials, labels) for measure in (protocol.gone, protocol.kept)]
    both = [label for label in labels if all(label in side for side in sides)]
    ranks = [dict(zip(both, average_ranks([side[label] for label in both]), strict=True)) for side in sides]
    return {label: sum(side[label] for side in ranks) / len(ranks) for label in both}


def side_scores(measure: Measure | None, trials: Sequence[KeptTrial], labels: Sequence[str]) -> dict[str, float]:
    """The mean of a measure over a method's trials, more is better; without methods that lack it."""
    found = {}
    for label in labels if measure is not None else ():
        assert measure is not None
        values = [value for one in trials if one.label == label and (value := measure.value(one)) is not None]
        if values:
            found[label] = (-1 if measure.falls else 1) * sum(values) / len(values)
    return found


def average_ranks(values: Sequence[float]) -> list[float]:
    """Ranks from 1 for the least; equal values share the mean of theirs."""
    from scipy.stats import rankdata  # Imported here because the import takes as long as a small edit.

    return [float(rank) for rank in rankdata(values)]


def rank_correlation(one: Scores, other: Scores) -> float | None:
    """Spearman's correlation over the methods that both have; None if they are fewer than three, or all alike."""
    shared = [label for label in one if label in other]
    if len(shared) < FEWEST:
        return None
    first, second = (average_ranks([side[label] for label in shared]) for side in (one, other))
    middle = (len(shared) + 1) / 2
    pairs = [(a - middle, b - middle) for a, b in zip(first, second, strict=True)]
    spread = math.sqrt(sum(a * a for a, _ in pairs) * sum(b * b for _, b in pairs))
    return sum(a * b for a, b in pairs) / spread if spread else None


def ceiling(one: Ranking, other: Ranking) -> float | None:
    """The largest correlation that noise allows: the root of the product of both reliabilities."""
    parts = one.reliability, other.reliability
    return None if parts[0] is None or parts[1] is None else math.sqrt(parts[0] * parts[1])


def least_correlation(methods: int) -> float | None:
    """The correlation of so many methods from which p <= 0.05, by Student's t; None for too few."""
    if methods <= FEWEST:
        return None
    t = student_quantile(methods - 2)
    return t / math.sqrt(methods - 2 + t * t)


def pooled_ranks(rankings: Sequence[Ranking], side: str, without: str) -> dict[str, float]:
    """Mean ranks by one side (`own`, `gone` or `kept`) of all other suites, over the methods that all of them have."""
    others = [scores for one in rankings if one.suite != without and (scores := getattr(one, side))]
    if not others:
        return {}
    shared = [label for label in others[0] if all(label in scores for scores in others)]
    ranks = [average_ranks([scores[label] for label in shared]) for scores in others]
    return {label: sum(own[i] for own in ranks) / len(ranks) for i, label in enumerate(shared)}


def largest_moves(one: Ranking, rankings: Sequence[Ranking], count: int = 2) -> list[tuple[str, float, float]]:
    """The methods whose rank in a suite is furthest from their mean rank in all others: name, rank here, rank there.

    Rank 1 is the method that the suite scores highest.
    """
    there = pooled_ranks(rankings, "own", one.suite)
    shared = [label for label in one.own if label in there]
    if len(shared) < FEWEST:
        return []
    here = average_ranks([-one.own[label] for label in shared])
    mean = average_ranks([-there[label] for label in shared])
    moved = sorted(zip(shared, here, mean, strict=True), key=lambda row: -abs(row[1] - row[2]))
    return [row for row in moved[:count] if row[1] != row[2]]
