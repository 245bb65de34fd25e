"""Intervals against known values and by simulation."""

import random

import pytest

from unconcept.core.errors import SettingsError
from unconcept.metrics.rates import clustered, wilson


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_against_published_values(hits, n, low, high) -> None:
    """The last three: Newcombe, Statistics in Medicine 17 (1998), table I, method 3."""
    rate = wilson(hits, n)
    assert (rate.low, rate.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))
    assert rate.value == hits / n


@pytest.mark.parametrize(("hits", "n"), [(1, 0), (-1, 3), (4, 3)])
def test_rates_without_a_count(hits, n) -> None:
    with pytest.raises(SettingsError, match="hits"):
        wilson(hits, n)


def test_bootstrap_covers_the_truth() -> None:
    """30 concepts whose own rates vary around 0.4, 20 pictures each: the interval holds 0.4 about 95 times in 100."""
    rng, covered = random.Random(0), 0
    for trial in range(100):
        values, names = [], []
        for concept in range(30):
            p = min(1, max(0, rng.gauss(0.4, 0.15)))
            values += [rng.random() < p for _ in range(20)]
            names += [str(concept)] * 20
        rate = clustered(values, names, draws=300, seed=trial)
        covered += rate.low <= 0.4 <= rate.high
    assert 88 <= covered <= 100


def test_clusters_widen_the_interval() -> None:
    values = [1] * 50 + [0] * 50
    alone = clustered(values, [str(i) for i in range(100)])
    paired = clustered(values, ["a"] * 50 + ["b"] * 50)
    assert paired.high - paired.low > 2 * (alone.high - alone.low)
    assert paired.clusters == 2


def test_constant_values_have_no_width() -> None:
    rate = clustered([1.0] * 9, list("abcabcabc"))
    assert (rate.low, rate.value, rate.high) == (1, 1, 1)
