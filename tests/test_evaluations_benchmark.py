"""The published suites beside each other: disjoint pictures, planted rankings, and a page of planted trials."""

import random
import sys
from collections.abc import Callable, Mapping

import pytest
from scipy.stats import spearmanr

from benchmarks import evaluations
from benchmarks.evaluation_suites import HALVES, PROTOCOLS, Measure, Protocol, noise_of
from benchmarks.evaluations_page import Found, agreement, detectable_sentence, page, section
from benchmarks.kept_trials import KeptTrial, kept_suite
from benchmarks.rank_agreement import (
    average_ranks,
    ceiling,
    largest_moves,
    least_correlation,
    own_scores,
    rank_correlation,
    ranking,
    side_scores,
)
from unconcept.evaluation.tasks.edit_task import Variant
from unconcept.metrics.intervals import clustered_mean
from unconcept.report.data import _FIGURE_NAMES

BASIS = {"models": ["moji@2"], "judge": ["moji-judge", 2, "f"], "drawing": {"steps": 20, "guidance_scale": 4.0}}
NAMES = (("bread",), ("flat",), ("hammer",))
GONE, KEPT = Measure("Acc_e", "Acc_e", falls=True), Measure("Acc_s", "Acc_s")


def protocol(suite: str, own: Measure | None = GONE) -> Protocol:
    return Protocol(suite, lambda: NAMES, 4, (GONE, KEPT), gone=GONE, kept=KEPT, own=own, said="Planted.")


def trial(label: str, concepts: tuple[str, ...], **figures: float) -> KeptTrial:
    pairs = {name: (value, 8) for name, value in figures.items()}
    return KeptTrial(label, concepts, {}, (), figures=pairs, figures_before={"Acc_e": 0.9, "Acc_s": 0.8})


def planted(suite: str, order: Mapping[str, float], kept: float = 0.5, own: Measure | None = GONE) -> Found:
    """Each method leaves as much in both halves, on every concept."""
    half = tuple(trial(label, names, Acc_e=left, Acc_s=kept) for label, left in order.items() for names in NAMES)
    return Found(protocol(suite, own), (half, half), ("uce", "later"))


def test_no_suite_shares_a_picture_with_another_or_a_half_with_the_other() -> None:
    seen: dict[object, tuple[str, int]] = {}
    for one in PROTOCOLS:
        for half in HALVES:
            suite = kept_suite(one.suite, one.limit, noise_of(one.suite, half))
            for prompt in {prompt for names in one.requests() for prompt in suite.prompts(names)}:
                assert seen.setdefault(prompt, (one.suite, half)) == (one.suite, half)
    assert len(seen) > 1000


def test_suites_and_halves_are_tables_of_their_own(tmp_path) -> None:
    def made(named: str | None) -> tuple[Variant, ...]:
        return (Variant("uce", "uce"),)

    celebrity = next(one for one in PROTOCOLS if one.suite == "celebrity")
    one, other = celebrity.tables(made, tmp_path)
    assert (one.folder.name, other.folder.name) == ("half-1", "half-2")
    assert one.seed != other.seed
    assert one.variants(None) == (Variant("uce", "uce", anchors=("person",)),)


@pytest.mark.parametrize("one", PROTOCOLS, ids=lambda one: one.suite)
def test_every_measure_names_a_figure_of_reports(one) -> None:
    """A pattern that matches no name of the schema would be n/a for ever."""
    import re

    for measure in (*one.columns, *filter(None, (one.gone, one.kept, one.own))):
        names = measure.pattern.replace(".+", "x").replace("\\", "")
        for name in names.replace("M[12]", "M1").replace("M[34]", "M3").split("|"):
            own = f"{name}, bread" if measure.about else name
            assert re.fullmatch(_FIGURE_NAMES, own), own


def test_rank_correlations_are_spearmans() -> None:
    chance = random.Random(0)
    for _ in range(20):
        one, other = ({str(i): float(chance.randrange(4)) for i in range(9)} for _ in range(2))
        assert rank_correlation(one, other) == pytest.approx(spearmanr([*one.values()], [*other.values()]).statistic)
    assert rank_correlation({"a": 1, "b": 2}, {"a": 1, "b": 2}) is None, "two methods have no ranking"
    assert rank_correlation(dict.fromkeys("abc", 1.0), {"a": 1, "b": 2, "c": 3}) is None
    assert average_ranks([3, 1, 1]) == [3, 1.5, 1.5]


def test_which_correlation_is_told_from_none() -> None:
    """At the least correlation Student's test has p = 0.05."""
    from scipy.stats import t

    for n in (4, 8, 38):
        r = least_correlation(n)
        assert 2 * t.sf(r * ((n - 2) / (1 - r * r)) ** 0.5, n - 2) == pytest.approx(0.05)
    assert least_correlation(3) is None


def test_less_left_is_more_and_a_suite_without_a_total_scores_by_both_sides() -> None:
    trials = [trial("a", ("bread",), Acc_e=0.1, Acc_s=0.2), trial("b", ("bread",), Acc_e=0.4, Acc_s=0.9)]
    trials.append(trial("c", ("bread",), Acc_e=0.2, Acc_s=0.9))
    assert side_scores(GONE, trials, ["a", "b", "c"]) == {"a": -0.1, "b": -0.4, "c": -0.2}
    assert own_scores(protocol("x"), trials, ["a", "b"]) == {"a": -0.1, "b": -0.4}
    assert own_scores(protocol("x", None), trials, ["a", "b", "c"]) == {"a": 2.0, "b": 1.75, "c": 2.25}


def test_reliability_is_that_of_both_halves_together() -> None:
    def halves(second: Callable[[int], float]):
        one, other = (
            [trial(str(i), ("bread",), Acc_e=value(i), Acc_s=0.5) for i in range(4)]
            for value in (lambda i: i / 10, second)
        )
        return ranking(protocol("x"), (one, other), [str(i) for i in range(4)])

    same, turned = halves(lambda i: i / 10), halves(lambda i: -i / 10)
    swapped = halves(lambda i: (1, 0, 2, 3)[i] / 10)
    assert (same.reliability, turned.reliability) == (1.0, 0.0)
    assert swapped.reliability == pytest.approx(2 * 0.8 / 1.8)
    assert ceiling(same, swapped) == pytest.approx((2 * 0.8 / 1.8) ** 0.5)


ORDER = {"uce": 0.1, "speed": 0.2, "esd": 0.3, "mace": 0.4}
TURNED = {label: 0.5 - left for label, left in ORDER.items()}


def test_the_suite_that_ranks_differently_is_named() -> None:
    found = [planted("first", ORDER), planted("second", ORDER), planted("third", TURNED)]
    text = agreement(found)
    assert "| first | **1.00** | 1.00 (1.00) | -1.00 (1.00) |" in text
    assert "third is furthest below what noise allows, by 2.00 in the mean" in text
    assert "| third | -1.00 | 1.00 | -1.00 | n/a | uce 4 instead of 1; mace 1 instead of 4 |" in text
    rankings = [ranking(one.protocol, one.halves, list(ORDER)) for one in found]
    assert largest_moves(rankings[2], rankings)[0] == ("uce", 4.0, 1.0)
    assert agreement(found[:1]) == "Not measured yet: two suites with three methods are needed.\n"


def test_a_suites_table_has_the_unedited_model_and_says_what_is_missing() -> None:
    found = planted("first", ORDER)
    text = section(found)
    spread = clustered_mean([0.1] * 6, [names[0] for names in NAMES] * 2)
    assert "| unedited | 0.90 [0.90, 0.90] | 0.80 [0.80, 0.80] |" in text
    assert f"| uce | {spread.value:.2f} [" in text
    assert "| later | not measured yet (0 of 6) |" in text
    cut = Found(found.protocol, (found.halves[0], ()), found.labels)
    assert "| uce | not measured yet (3 of 6) |" in section(cut)
    assert cut.measured == []
    assert detectable_sentence(cut) == ""


def test_the_page_names_what_was_left_out() -> None:
    text = page(BASIS, [planted("first", ORDER), planted("second", TURNED)], ["hub, uce: 1 of 3 edits"])
    assert "- hub, uce: 1 of 3 edits\n" in text
    assert "## Do suites rank methods alike?" in text
    assert "best" not in text.replace("No row is the best.", "")


def test_an_unknown_suite_is_refused(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["evaluations", "--suites", "none"])
    with pytest.raises(SystemExit) as ended:
        evaluations.main()
    assert ended.value.code == 2
    assert "no suite 'none'" in capsys.readouterr().err


def test_the_page_is_written_of_what_is_kept_alone(tmp_path, monkeypatch) -> None:
    words = ["evaluations", "--from-kept", "--kept", str(tmp_path / "kept"), "--docs", str(tmp_path / "docs")]
    monkeypatch.setattr("sys.argv", words)
    monkeypatch.setattr(evaluations, "measure", lambda *given: pytest.fail("measured"))
    evaluations.main()
    assert [path.name for path in (tmp_path / "docs").iterdir()] == ["evaluations.md"]
