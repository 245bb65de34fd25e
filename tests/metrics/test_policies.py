"""Words from raw figures."""

import pytest
import torch

from unconcept.core.errors import SettingsError
from unconcept.metrics.score_policies import argmax, clip_score, log_softmax, probability, top_k

LABELS = ("a", "b", "c")


def test_the_largest_figure_wins_and_the_first_of_equals() -> None:
    assert argmax([-3.0, -0.1, -2.0], LABELS) == "b"
    assert argmax([-1.0, -0.5, -0.5], LABELS) == "b"
    assert top_k([-3.0, -0.1, -2.0], LABELS, 2) == ["b", "c"]
    assert top_k([0.0, 0.0, 0.0], LABELS, 3) == list(LABELS)


def test_log_softmax_against_torch() -> None:
    cosines = [0.21, 0.27, 0.05, -0.3]
    wanted = (100 * torch.tensor(cosines, dtype=torch.float64)).log_softmax(0)
    assert log_softmax(cosines) == pytest.approx(wanted.tolist(), rel=1e-12)


def test_probability_of_labels_is_summed() -> None:
    figures = log_softmax([0.2, 0.2, 0.2])
    assert probability(figures, LABELS, ["a"]) == pytest.approx(1 / 3)
    assert probability(figures, LABELS, ["a", "c"]) == pytest.approx(2 / 3)
    assert probability(figures, LABELS, LABELS) == pytest.approx(1)


def test_clip_scores_of_the_field() -> None:
    assert clip_score(0.25) == 25
    assert clip_score(0.25, 2.5) == 0.625
    assert clip_score(-0.1) == 0


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: argmax([0.0], LABELS), "1 figures for 3 labels"),
        (lambda: top_k([0.0, 0.0, 0.0], LABELS, 4), "must be in 1..3"),
        (lambda: probability([0.0, 0.0, 0.0], LABELS, ["d"]), "unknown label"),
    ],
)
def test_what_does_not_fit_is_refused(call, match) -> None:
    with pytest.raises(SettingsError, match=match):
        call()
