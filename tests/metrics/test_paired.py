"""Paired tests against brute force over all patterns."""

from itertools import product
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unconcept.core.errors import DataError, SettingsError
from unconcept.metrics.paired_tests import detectable_change, holm, least_p, mcnemar, paired_change, sign_flip


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=14))
def test_mcnemar_against_all_patterns(pairs) -> None:
    """Oracle: under the null each changed picture could have changed either way; count the
    patterns at least as uneven.
    """
    found = mcnemar([b for b, _ in pairs], [a for _, a in pairs])
    changes = [int(a) - int(b) for b, a in pairs if a != b]
    patterns = [abs(sum(signs)) >= abs(sum(changes)) for signs in product((-1, 1), repeat=len(changes))]
    assert found.p == pytest.approx(sum(patterns) / len(patterns), abs=1e-12)
    assert (found.gained, found.lost, found.n) == (changes.count(1), changes.count(-1), len(pairs))


def test_mcnemar_of_many_pictures() -> None:
    """10,000 changes, 5,100 of them losses: z = 2, so p is near 0.0466 (with the tie, a little more)."""
    found = mcnemar([True] * 5100 + [False] * 4900, [False] * 5100 + [True] * 4900)
    assert found.p == pytest.approx(0.0466, abs=1e-3)


def test_the_same_model_has_p_one() -> None:
    assert mcnemar([True, False] * 9, [True, False] * 9).p == 1
    assert sign_flip([0.0] * 9) == 1 == sign_flip([0.0] * 9, list("aaabbbccc"))


@given(st.lists(st.integers(-5, 5).map(lambda i: i / 4), min_size=1, max_size=9), st.data())
def test_sign_flip_against_all_patterns(differences, data) -> None:
    names = data.draw(st.lists(st.sampled_from("abcd"), min_size=len(differences), max_size=len(differences)))
    units = [
        sum(d for d, name in zip(differences, names, strict=True) if name == which) for which in dict.fromkeys(names)
    ]
    reached = [
        abs(sum(s * u for s, u in zip(signs, units, strict=True))) >= abs(sum(units))
        for signs in product((-1, 1), repeat=len(units))
    ]
    assert sign_flip(differences, names) == pytest.approx(sum(reached) / len(reached), abs=1e-12)


def test_random_patterns_agree_with_all_patterns() -> None:
    """20 units are counted out; the same 20 and one that hardly matters are drawn. 40,000 draws: 0.004 is 3 deviations
    at p = 0.07.
    """
    rng = np.random.default_rng(0)
    for units in (rng.normal(0.4, 1, 20), np.array([1.0] * 14 + [-1.0] * 6)):
        exact = sign_flip(units.tolist())
        drawn = sign_flip([*units.tolist(), 1e-12], draws=40_000)
        assert 0.01 < exact < 0.3
        assert drawn == pytest.approx(exact, abs=0.006)


def test_binary_differences_test_as_mcnemar() -> None:
    """Flipping signs of +-1 is McNemar's test, so 60 changes give its p within the noise of drawing."""
    before, after = [True] * 39 + [False] * 21 + [True] * 40, [False] * 39 + [True] * 21 + [True] * 40
    drawn = sign_flip([int(a) - int(b) for b, a in zip(before, after, strict=True)], draws=40_000)
    assert drawn == pytest.approx(mcnemar(before, after).p, abs=0.004)


def test_drawn_p_is_never_zero_and_repeats() -> None:
    assert sign_flip([1.0] * 500, draws=1000) == 1 / 1001
    noise = np.random.default_rng(1).normal(size=300).tolist()
    assert sign_flip(noise, seed=3) == sign_flip(noise, seed=3)


def test_sign_flip_keeps_its_level() -> None:
    """No difference planted, 12 concepts that differ among themselves: p < 0.05 in about 5 % of 200 runs (3 to 18: 99.2
    %).
    """
    rng = np.random.default_rng(2)
    names = [str(i) for i in range(12) for _ in range(10)]
    found = [
        sign_flip((np.repeat(rng.normal(0, 1, 12), 10) + rng.normal(0, 1, 120)).tolist(), names) for _ in range(200)
    ]
    assert 3 <= sum(p < 0.05 for p in found) <= 18


def test_paired_change() -> None:
    rate = paired_change([1, 1, 1, 0] * 10, [0, 0, 1, 0] * 10, [str(i) for i in range(40)])
    assert rate.value == -0.5
    assert -0.7 < rate.low < -0.5 < rate.high < -0.3
    same = paired_change([1, 0, 1], [1, 0, 1], ["a", "b", "c"])
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_holm_by_hand() -> None:
    """0.01 x 3, 0.02 x 2, 0.03 x 1 and never falling; order of the table kept."""
    assert holm({"c": 0.03, "a": 0.01, "b": 0.02}) == {"c": 0.04, "a": 0.03, "b": 0.04}
    assert holm({}) == {}
    with pytest.raises(DataError, match="must be in"):
        holm({"a": 1.2})


@settings(max_examples=50)
@given(st.dictionaries(st.text(max_size=3), st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_the_raw_value_and_bonferroni(p) -> None:
    adjusted = holm(p)
    assert all(p[name] <= adjusted[name] <= min(1, len(p) * p[name]) + 1e-12 for name in p)
    assert sorted(p, key=lambda name: (p[name], adjusted[name])) == sorted(
        p, key=lambda name: (adjusted[name], p[name])
    )


@pytest.mark.parametrize(("units", "tests"), [(6, 1), (12, 1), (28, 6), (200, 9)])
def test_a_detectable_change_is_found_as_often_as_it_says(units, tests) -> None:
    """Oracle: the binomial sum over all numbers of lost pictures whose McNemar p, times the tests, is at most 0.05."""
    share = detectable_change(units, tests)
    found = 0.0
    for lost in range(units + 1):
        before = [True] * units
        after = [False] * lost + [True] * (units - lost)
        if tests * mcnemar(before, after).p <= 0.05:
            found += comb(units, lost) * share**lost * (1 - share) ** (units - lost)
    assert found == pytest.approx(0.8, abs=1e-9)


def test_a_test_that_cannot_reach_significance_detects_nothing() -> None:
    """Five pictures have at best p = 1/16; six 1/32, which two tests halve away."""
    assert [detectable_change(5), detectable_change(6, 2)] == [None, None]
    assert detectable_change(6) == pytest.approx(0.8 ** (1 / 6)), "all six must change"
    for units in range(1, 12):
        assert least_p(units) == mcnemar([True] * units, [False] * units).p
        assert least_p(units) == sign_flip([-0.5] * units)


def test_more_pictures_detect_less() -> None:
    shares = [detectable_change(units, 6) for units in (8, 12, 28, 100, 1000)]
    assert shares == sorted(shares, reverse=True)
    assert detectable_change(28, 6) < detectable_change(28, 6, power=0.9)


@pytest.mark.parametrize(("units", "tests", "power"), [(10, 0, 0.5), (10, 1, 1.0)])
def test_plans_that_make_no_sense(units, tests, power) -> None:
    with pytest.raises(SettingsError, match="at least 1 test"):
        detectable_change(units, tests, power)


def test_pairs_of_different_length() -> None:
    for wrong in (
        lambda: mcnemar([True], []),
        lambda: paired_change([1.0], [1.0, 0.0], ["a"]),
        lambda: sign_flip([]),
        lambda: sign_flip([1.0], ["a", "b"]),
    ):
        with pytest.raises(DataError, match="give pairs"):
            wrong()
    with pytest.raises(DataError, match="is NaN or infinite"):
        sign_flip([float("nan"), 1.0])
