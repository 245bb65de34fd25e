"""Means over receivers against a matrix computed with numpy, and the counts the benchmarks print."""

import numpy as np
import pytest

from unconcept.core.errors import DataError
from unconcept.metrics.unlearncanvas import (
    continual_curve,
    grid_accuracies,
    grid_means,
    grid_rows,
    mean_height,
    unlearncanvas_rows,
)
from unconcept.prompts.unlearncanvas import UNLEARNCANVAS_OBJECTS, UNLEARNCANVAS_THEMES

DOMAINS = {"style": ["ink", "oil", "photo"], "object": ["dog", "cat"]}


def planted(models, receivers, seed: int = 0) -> tuple[dict, np.ndarray]:
    matrix = np.random.default_rng(seed).random((len(models), len(receivers)))
    return {(m, r): float(matrix[i, j]) for i, m in enumerate(models) for j, r in enumerate(receivers)}, matrix


def test_unlearncanvas_against_a_matrix() -> None:
    """Oracle: sums over the whole matrix minus the diagonal, to 1e-12; 50 and 20, 19 and 51 receivers."""
    targets = [name for name in (*UNLEARNCANVAS_THEMES, *UNLEARNCANVAS_OBJECTS) if name != "Seed_Images"]
    acc, matrix = planted(targets, [*UNLEARNCANVAS_THEMES, *UNLEARNCANVAS_OBJECTS])
    rows = unlearncanvas_rows(acc, UNLEARNCANVAS_THEMES, UNLEARNCANVAS_OBJECTS)
    means = grid_means(rows)
    column = {name: j for j, name in enumerate([*UNLEARNCANVAS_THEMES, *UNLEARNCANVAS_OBJECTS])}
    own = np.array([matrix[i, column[name]] for i, name in enumerate(targets)])
    styles, objects = matrix[:, :51].sum(1), matrix[:, 51:].sum(1)
    assert {(row.n_ira, row.n_cra) for row in rows if row.domain == "style"} == {(50, 20)}
    assert {(row.n_ira, row.n_cra) for row in rows if row.domain == "object"} == {(19, 51)}
    for domain, part, inside, across, counts in (
        ("style", slice(0, 50), styles, objects, (50, 20)),
        ("object", slice(50, 70), objects, styles, (19, 51)),
    ):
        expected = (1 - own[part]).mean(), ((inside - own)[part] / counts[0]).mean(), (across[part] / counts[1]).mean()
        found = means[domain]
        assert np.allclose([found.ua, found.ira, found.cra], expected, rtol=0, atol=1e-12)
    assert (means["style"].target, means["object"].target) == ("mean of 50", "mean of 20")


def test_random_answers_and_perfect_ones() -> None:
    """A judge that guesses among 51 styles: UA is 1 - 1/51. A perfect eraser: all three are 1."""
    guess = {
        (m, r): 1 / (51 if r in UNLEARNCANVAS_THEMES else 20)
        for m in (*UNLEARNCANVAS_THEMES, *UNLEARNCANVAS_OBJECTS)
        for r in (*UNLEARNCANVAS_THEMES, *UNLEARNCANVAS_OBJECTS)
    }
    assert grid_means(unlearncanvas_rows(guess, UNLEARNCANVAS_THEMES, UNLEARNCANVAS_OBJECTS))[
        "style"
    ].ua == pytest.approx(1 - 1 / 51, abs=1e-12)
    perfect = {
        (m, r): float(m != r)
        for m in (*UNLEARNCANVAS_THEMES, *UNLEARNCANVAS_OBJECTS)
        for r in (*UNLEARNCANVAS_THEMES, *UNLEARNCANVAS_OBJECTS)
    }
    assert all(
        (row.ua, row.ira, row.cra) == (1, 1, 1)
        for row in grid_means(unlearncanvas_rows(perfect, UNLEARNCANVAS_THEMES, UNLEARNCANVAS_OBJECTS)).values()
    )


def test_a_wrong_number_of_receivers() -> None:
    with pytest.raises(DataError, match="'style': 50"):
        unlearncanvas_rows({}, UNLEARNCANVAS_THEMES[:-1], UNLEARNCANVAS_OBJECTS)
    with pytest.raises(DataError, match="Seed_Images"):
        unlearncanvas_rows({}, [*UNLEARNCANVAS_THEMES[:-1], "Photo"], UNLEARNCANVAS_OBJECTS)


def test_grid_by_hand() -> None:
    acc = {("dog", r): v for r, v in {"dog": 0.1, "cat": 0.9, "ink": 0.3, "oil": 0.6, "photo": 0.0}.items()}
    (row,) = grid_rows(acc, ["dog"], DOMAINS)
    assert (row.ua, row.ira, row.cra, row.n_ira, row.n_cra) == (pytest.approx(0.9), 0.9, pytest.approx(0.3), 1, 3)


@pytest.mark.parametrize("gone", ["dog", "cat", "photo"])
def test_missing_cells_are_errors(gone) -> None:
    acc = {("dog", r): 0.5 for rs in DOMAINS.values() for r in rs if r != gone}
    with pytest.raises(DataError, match=f"'dog' on '{gone}'"):
        grid_rows(acc, ["dog"], DOMAINS)


def test_percent_is_refused() -> None:
    with pytest.raises(DataError, match="not percent"):
        grid_rows({("dog", r): 50.0 for rs in DOMAINS.values() for r in rs}, ["dog"], DOMAINS)
    with pytest.raises(DataError, match="0 domains"):
        grid_rows({}, ["fish"], DOMAINS)


def test_accuracies_count_every_picture() -> None:
    hits = [("dog", "cat", True), ("dog", "cat", True), ("dog", "cat", False), ("dog", "ink", False)]
    assert grid_accuracies(hits, {"cat": 3, "ink": 1}) == {("dog", "cat"): 2 / 3, ("dog", "ink"): 0.0}
    with pytest.raises(DataError, match="2 pictures judged, 3 expected"):
        grid_accuracies(hits[1:], {"cat": 3, "ink": 1})
    with pytest.raises(DataError, match="'ink' is unknown"):
        grid_accuracies(hits, {"cat": 3})


SEQUENCE, INSIDE, ACROSS = ["a", "b", "c"], ["x", "y"], ["z"]


def test_curve_by_hand() -> None:
    acc = {(k, r): 0.8 for k in range(4) for r in (*SEQUENCE, *INSIDE, *ACROSS)}
    acc |= {
        (1, "a"): 0.0,
        (2, "a"): 0.2,
        (2, "b"): 0.1,
        (3, "a"): 0.5,
        (3, "b"): 0.1,
        (3, "c"): 0.0,
        (3, "x"): 0.4,
        (3, "z"): 0.2,
    }
    zero, one, two, three = continual_curve(acc, SEQUENCE, INSIDE, ACROSS, start=0)
    assert (zero.ua, zero.ra_i, zero.ra_c, zero.new_ua, zero.lost_i) == (pytest.approx(0.2), 0.8, 0.8, None, 0)
    assert (one.ua, one.new_ua, one.backward_ua) == (1, 1, None)
    assert (two.ua, two.new_ua, two.backward_ua) == (pytest.approx(0.85), pytest.approx(0.9), pytest.approx(0.8))
    assert (three.ua, three.ra_i, three.ra_c) == (pytest.approx(0.8), pytest.approx(0.6), 0.2)
    assert (three.backward_ua, three.lost_i, three.lost_c) == (
        pytest.approx(0.7),
        pytest.approx(0.2),
        pytest.approx(0.6),
    )
    assert three.harmonic == pytest.approx(3 / (1 / 0.8 + 1 / 0.6 + 1 / 0.2))
    without = continual_curve(acc, SEQUENCE, INSIDE, ACROSS)
    assert [step.k for step in without] == [1, 2, 3]
    assert without[0].lost_i is None


def test_curves_are_over_held_out_lists() -> None:
    """RA-I is no IRA: what will be erased later must not be averaged in."""
    with pytest.raises(DataError, match=r"\['b'\] are both erased and retained"):
        continual_curve({}, SEQUENCE, ["b", "x"], ACROSS)
    with pytest.raises(DataError, match="model 1 on 'a'"):
        continual_curve({}, SEQUENCE, INSIDE, ACROSS)


def test_areas() -> None:
    assert mean_height([0.3]) == 0.3
    assert mean_height([0.0, 1.0, 0.0]) == 0.5
    assert mean_height([1.0, 0.5, 0.0, 0.0]) == pytest.approx(np.trapezoid([1.0, 0.5, 0.0, 0.0]) / 3)
    with pytest.raises(DataError):
        mean_height([])
