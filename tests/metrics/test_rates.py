"""Intervals against known values, exact fractions and simulation."""

import time
from fractions import Fraction
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unconcept.core.errors import SettingsError
from unconcept.metrics.intervals import (
    clopper_pearson,
    clustered_mean,
    clustered_share,
    resampled_statistic,
    student_quantile,
    wilson,
)

# Of 200 intervals that each cover with 95 %, between 181 and 197 do so with 99.5 % (binomial); seeds are fixed.
BAND = range(181, 198)


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_against_published_values(hits, n, low, high) -> None:
    """The last three: Newcombe, Statistics in Medicine 17 (1998), table I, method 3."""
    rate = wilson(hits, n)
    assert (rate.low, rate.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))
    assert rate.value == hits / n


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [
        (81, 263, 0.2527, 0.3676),
        (15, 148, 0.0578, 0.1617),
        (0, 20, 0.0, 0.1684),
        (1, 29, 0.0009, 0.1776),
        (29, 29, 0.8806, 1.0),
    ],
)
def test_exact_interval_against_published_values(hits, n, low, high) -> None:
    """Newcombe 1998, table I, method 5; the last by symmetry."""
    rate = clopper_pearson(hits, n)
    assert (rate.low, rate.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


def at_most(k: int, n: int, p: Fraction) -> Fraction:
    return sum((comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k + 1)), Fraction(0))


@given(st.integers(1, 40).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_exact_interval_ends_where_tails_are_a_fortieth(pair) -> None:
    """Oracle: binomial tails in exact fractions."""
    hits, n = pair
    rate = clopper_pearson(hits, n)
    if hits < n:
        assert float(at_most(hits, n, Fraction(rate.high))) == pytest.approx(0.025, rel=1e-9)
    if hits > 0:
        assert float(1 - at_most(hits - 1, n, Fraction(rate.low))) == pytest.approx(0.025, rel=1e-9)
    assert rate.low <= rate.value <= rate.high


@pytest.mark.parametrize("interval", [wilson, clopper_pearson])
@pytest.mark.parametrize(("hits", "n"), [(1, 0), (-1, 3), (4, 3)])
def test_rates_without_a_count(interval, hits, n) -> None:
    with pytest.raises(SettingsError, match="hits"):
        interval(hits, n)


@pytest.mark.parametrize(
    ("freedom", "point"),
    [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (9, 2.2622), (29, 2.0452), (1000, 1.9623)],
)
def test_students_t_against_tables(freedom, point) -> None:
    assert student_quantile(freedom) == pytest.approx(point, abs=5e-5)


def planted(
    rng: np.random.Generator, concepts: int, pictures: int, rate: float, spread: float
) -> tuple[list[float], list[str]]:
    """0/1 values of concepts whose own rates have mean `rate` and standard deviation `spread`."""
    size = rate * (1 - rate) / spread**2 - 1 if spread else 0
    own = rng.beta(rate * size, (1 - rate) * size, concepts) if spread else np.full(concepts, rate)
    hits = rng.random((concepts, pictures)) < own[:, None]
    return [float(hit) for hit in hits.ravel()], [str(i) for i in range(concepts) for _ in range(pictures)]


@pytest.mark.parametrize(
    ("concepts", "pictures", "spread"), [(5, 24, 0.15), (10, 24, 0.15), (30, 20, 0.15), (10, 24, 0.0), (120, 1, 0.0)]
)
def test_clustered_interval_covers_a_planted_rate(concepts, pictures, spread) -> None:
    rng = np.random.default_rng(1)
    rates = [
        clustered_mean(*planted(rng, concepts, pictures, 0.4, spread), draws=1000, seed=trial) for trial in range(200)
    ]
    assert sum(rate.low <= 0.4 <= rate.high for rate in rates) in BAND


def test_paired_difference_is_covered() -> None:
    """Before 0.8, after 0.3 in each concept's mean; concepts differ by 0.1."""
    rng, covered = np.random.default_rng(3), 0
    for trial in range(200):
        after, names = planted(rng, 8, 24, 0.3, 0.1)
        before, _ = planted(rng, 8, 24, 0.8, 0.1)
        rate = clustered_mean([a - b for a, b in zip(after, before, strict=True)], names, draws=1000, seed=trial)
        covered += rate.low <= -0.5 <= rate.high
    assert covered in BAND


@pytest.mark.parametrize(
    ("concepts", "rate", "spread"), [(5, 0.05, 0.05), (10, 0.05, 0.05), (10, 0.02, 0.0), (10, 0.4, 0.15)]
)
def test_share_interval_covers_small_rates(concepts, rate, spread) -> None:
    """Where hits are few it may cover more than 95 %, never much less."""
    rng, covered = np.random.default_rng(2), 0
    for _ in range(200):
        values, names = planted(rng, concepts, 24, rate, spread)
        found = clustered_share([value > 0 for value in values], names)
        covered += found.low <= rate <= found.high
    assert covered >= BAND[0]


def test_shares_at_the_ends_have_width() -> None:
    names = list("aabbcc") * 10
    none, every = clustered_share([False] * 60, names), clustered_share([True] * 60, names)
    assert (none.value, none.low, none.high) == (0, 0, wilson(0, 60).high)
    assert (every.value, every.high, every.low) == (1, 1, wilson(60, 60).low)
    assert none.clusters == 3


def test_share_of_unclustered_pictures_is_wilsons() -> None:
    hits = [i % 3 == 0 for i in range(300)]
    found, plain = clustered_share(hits, [str(i) for i in range(300)]), wilson(100, 300)
    assert (found.low, found.high) == (pytest.approx(plain.low, abs=1e-3), pytest.approx(plain.high, abs=1e-3))


def test_clusters_widen_the_interval() -> None:
    values = [1] * 50 + [0] * 50
    alone = clustered_mean(values, [str(i) for i in range(100)])
    paired = clustered_mean(values, ["a"] * 50 + ["b"] * 50)
    assert paired.high - paired.low > 2 * (alone.high - alone.low)
    assert paired.clusters == 2


def test_constant_values_have_no_width() -> None:
    rate = clustered_mean([1.0] * 9, list("abcabcabc"))
    assert (rate.low, rate.value, rate.high) == (1, 1, 1)


def test_one_cluster_is_resampled_by_picture() -> None:
    one, many = clustered_mean([0, 1] * 50, ["a"] * 100), clustered_mean([0, 1] * 50, [str(i) for i in range(100)])
    assert (one.low, one.high) == (pytest.approx(many.low, abs=0.02), pytest.approx(many.high, abs=0.02))
    assert (one.clusters, many.clusters) == (1, 100)


@pytest.mark.parametrize(("values", "names"), [([], []), ([1.0], []), ([1.0], ["a", "b"])])
def test_values_without_clusters(values, names) -> None:
    with pytest.raises(SettingsError, match="cluster names"):
        clustered_mean(values, names)


@given(
    st.lists(st.tuples(st.sampled_from([-1.0, 0.0, 0.25, 1.0]), st.sampled_from("abcdef")), min_size=1, max_size=60),
    st.randoms(),
)
def test_interval_holds_the_mean_and_forgets_the_order(pairs, random) -> None:
    rate = clustered_mean([value for value, _ in pairs], [name for _, name in pairs], draws=200)
    assert -1 <= rate.low <= rate.value <= rate.high <= 1
    assert rate.value == pytest.approx(sum(value for value, _ in pairs) / len(pairs))
    random.shuffle(pairs)
    assert clustered_mean([value for value, _ in pairs], [name for _, name in pairs], draws=200).value == pytest.approx(
        rate.value
    )


def test_counting_equal_clusters_draws_from_the_same_law() -> None:
    """Binary values take the counting way; a shift too small to see sends the same clusters the drawn way."""
    rng = np.random.default_rng(4)
    values, names = planted(rng, 400, 5, 0.3, 0.1)
    nudged = [value + 1e-9 * rng.random() for value in values]
    counted, drawn = clustered_mean(values, names, 20_000), clustered_mean(nudged, names, 20_000)
    assert (counted.low, counted.high) == (pytest.approx(drawn.low, abs=1e-3), pytest.approx(drawn.high, abs=1e-3))


def test_ratio_is_computed_in_every_draw() -> None:
    rng = np.random.default_rng(5)
    low, high = planted(rng, 40, 20, 0.2, 0.1), planted(rng, 30, 20, 0.8, 0.1)
    ratio = resampled_statistic([low, high], lambda a, b: a / b)
    assert ratio.value == pytest.approx(np.mean(low[0]) / np.mean(high[0]))
    assert ratio.low < 0.25 < ratio.high
    assert (ratio.n, ratio.clusters) == (600, 30)


def test_twenty_thousand_pictures_are_quick() -> None:
    rng = np.random.default_rng(6)
    values, names = rng.random(20_000).tolist(), [str(i % 100) for i in range(20_000)]
    begun = time.process_time()
    clustered_mean(values, names)
    assert time.process_time() - begun < 0.5
