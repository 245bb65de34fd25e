"""Distances to models that never saw a concept, against numbers worked by hand and laws of known distributions."""

import numpy as np
import pytest

from unconcept.core.errors import DataError
from unconcept.metrics.never_saw import (
    kernel_differences,
    relative_position,
    relearning_saving,
    strangers_test,
    two_way_gap,
)


def test_the_gap_of_a_model_to_itself_is_0_and_worked_numbers_hold():
    errors = np.array([1.0, 2.0, 4.0])
    assert two_way_gap(errors, errors, errors, errors) == 0
    # On p's pictures q errs by 0.5 more, on q's p by 2 more.
    assert two_way_gap(errors, errors + 0.5, errors, errors + 2) == 2.5
    assert two_way_gap(errors, errors - 1, errors, errors) == -1
    with pytest.raises(DataError, match=r"\(3,\) and \(2,\)"):
        two_way_gap(errors, errors[:2], errors, errors)


def test_the_gap_of_gaussians_grows_as_their_divergence():
    rng = np.random.default_rng(0)
    x, eps, a, s = rng.standard_normal(200_000), rng.standard_normal(200_000), 0.6, 0.8

    def error(mean, pictures):
        """Of the exact noise prediction for N(mean, 1), whose noised variance is 1."""
        return np.square(eps - s * (a * (pictures - mean) + s * eps))

    gaps = [two_way_gap(error(0, x), error(m, x), error(m, x + m), error(0, x + m)) for m in (0.5, 1.0, 2.0)]
    # E|eps - q|^2 - E|eps - p|^2 = (s a m)^2 each way; KL both ways is m^2.
    assert gaps == pytest.approx([2 * (s * a * m) ** 2 for m in (0.5, 1.0, 2.0)], rel=0.03)


def test_the_relative_position_is_0_for_never_and_1_for_untouched():
    assert relative_position(2.0, 2.0, 6.0) == 0
    assert relative_position(6.0, 2.0, 6.0) == 1
    assert relative_position(8.0, 2.0, 6.0) == 1.5
    with pytest.raises(DataError, match=r"d\(A, W2\) = 2 is not above d\(W1, W2\) = 2"):
        relative_position(3.0, 2.0, 2.0)


def pictures(rng, shift, prompts=40, each=4):
    return rng.standard_normal((prompts, each, 3)) + np.array([shift, 0, 0])


def test_kernel_differences_are_those_of_two_full_distances():
    rng = np.random.default_rng(1)
    u, w, b = pictures(rng, 0, 2), pictures(rng, 1, 2), pictures(rng, 2, 2)
    found = kernel_differences(u, w, b)

    def squares(one, other):
        return np.array([[((x - y) ** 2).sum() for y in other] for x in one])

    together = [np.concatenate(parts) for parts in zip(u, w, b, strict=True)]
    scale = np.median([np.median(squares(some, some)) for some in together])

    def kernel(x, y):
        return np.mean([np.exp(-((x - y) ** 2).sum() / (2 * h * scale)) for h in (0.25, 0.5, 1, 2, 4)])

    def distance(one, other):
        pairs = [(i, j) for i in range(4) for j in range(4) if i != j]
        inner = sum(np.mean([kernel(some[i], some[j]) for i, j in pairs]) for some in (one, other))
        return inner - 2 * np.mean([kernel(x, y) for x in one for y in other])

    expected = [distance(u[i], w[i]) - distance(u[i], b[i]) for i in range(2)]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_strangers_are_told_apart_and_controls_behave():
    rng = np.random.default_rng(2)
    never, ever = pictures(rng, 0), pictures(rng, 2)
    honest = strangers_test(kernel_differences(pictures(rng, 0), never, ever))
    untouched = strangers_test(kernel_differences(pictures(rng, 2), never, ever))
    assert not honest.rejects
    assert honest.difference < 0
    assert untouched.rejects
    assert untouched.prompts == 40


def test_p_values_are_uniform_where_both_strangers_are_one_model():
    rng, found = np.random.default_rng(3), []
    for seed in range(200):
        u, halves = pictures(rng, 0, 12), pictures(rng, 0, 12, 8)
        found.append(strangers_test(kernel_differences(u, halves[:, :4], halves[:, 4:]), seed=seed).p)
    steps = (np.arange(200) + 0.5) / 200
    assert np.abs(np.sort(found) - steps).max() < 1.36 / 200**0.5  # Kolmogorov's bound at 5 %.
    assert 0.01 <= np.mean(np.array(found) <= 0.05) <= 0.10


def test_never_is_censored():
    assert relearning_saving([4, 4], [16, 16], 512).value == 0.75
    assert relearning_saving([16, 16], [16], 512).value == 0
    assert relearning_saving([0, 0], [8], 512).value == 1
    late = relearning_saving([None], [256], 512)
    assert (late.value, late.bound) == (-1, "at most")
    hard = relearning_saving([128], [None, 512], 512)
    assert (hard.value, hard.bound) == (0.75, "at least")
    assert relearning_saving([None], [None], 512).value is None
    with pytest.raises(DataError, match="void"):
        relearning_saving([1], [0], 512)
