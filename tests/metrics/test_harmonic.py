"""Published harmonic means, worked again."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unconcept.core.errors import DataError
from unconcept.metrics.harmonic import h_a, h_c, h_o, harmonic_mean, harmonic_rate


@pytest.mark.parametrize(
    ("acc_e", "acc_r", "printed"),
    [
        (0.0181, 0.8909, 93.42),
        (0.9199, 0.8966, 14.70),
        (0.0162, 0.8773, 92.75),
        (0.6076, 0.7789, 52.19),
        (0.0587, 0.8554, 89.63),
        (0.0, 0.2092, 34.60),
    ],
)
def test_celebrities_against_speeds_table(acc_e, acc_r, printed) -> None:
    """SPEED (ICLR 2026), table 2."""
    assert 100 * h_c(acc_e, acc_r) == pytest.approx(printed, abs=0.01)


def test_objects_by_hand() -> None:
    """Erased 0.25, others 0.75, synonyms 0.5: 3 / (4/3 + 4/3 + 2)."""
    assert h_o(0.25, 0.75, 0.5) == pytest.approx(3 / (4 / 3 + 4 / 3 + 2))


def test_artists_are_a_difference() -> None:
    assert h_a(clip_e=22.5, clip_s=28.6) == pytest.approx(6.1)


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=5))
def test_harmonic_lies_between_the_worst_and_the_mean(terms) -> None:
    value = harmonic_mean(*terms)
    assert min(terms) - 1e-12 <= value <= sum(terms) / len(terms) + 1e-12
    assert harmonic_mean(*terms, 0.0) == 0


@pytest.mark.parametrize("terms", [(), (93.4, 0.5), (-0.1,), (float("nan"),)])
def test_terms_that_are_no_shares(terms) -> None:
    with pytest.raises(DataError):
        harmonic_mean(*terms)


def test_interval_of_h_covers_the_truth() -> None:
    """Planted: 1 - Acc_e = 0.9, Acc_s = 0.7 over 12 and 15 names of 10 pictures. Band as in test_rates."""
    rng, covered, truth = np.random.default_rng(0), 0, harmonic_mean(0.9, 0.7)
    names = [[str(i) for i in range(k) for _ in range(10)] for k in (12, 15)]
    for trial in range(200):
        own = rng.beta(9, 1, 12), rng.beta(7, 3, 15)
        values = [[float(rng.random() < p) for p in shares for _ in range(10)] for shares in own]
        rate = harmonic_rate((values[0], names[0]), (values[1], names[1]), draws=800, seed=trial)
        covered += rate.low <= truth <= rate.high
    assert 181 <= covered <= 197


def test_h_of_nothing_good_is_zero() -> None:
    rate = harmonic_rate(([0.0] * 6, list("aabbcc")), ([1.0] * 6, list("aabbcc")))
    assert (rate.value, rate.low, rate.high) == (0, 0, 0)
