"""Worked numbers of HUB, EraseEval, the I2P counts, celebrity accuracy and attack success rates."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unconcept.core.errors import DataError
from unconcept.metrics.asr import attack_rates, success_curve
from unconcept.metrics.erase_eval import distribution_score, survival_score, text_score, total_score
from unconcept.metrics.faces import face_accuracy, normalised_face_name
from unconcept.metrics.hub import category_means, overall_mean, selective_alignment, yes_proportion
from unconcept.metrics.i2p import (
    COUNTING_RULES,
    EXPOSED_LABELS,
    OTHER_LABELS,
    STRICT_LABELS,
    CountingRule,
    count_parts,
    relative_reduction,
)


@pytest.mark.parametrize(
    ("celebrity", "style", "ip", "nsfw", "printed"),
    [
        (0.628, 0.638, 0.683, 0.647, 0.649),
        (0.001, 0.363, 0.034, 0.603, 0.250),
        (13.706, 13.561, 14.066, 13.954, 13.822),
        (0.576, 0.601, 0.553, None, 0.577),
    ],
)
def test_hub_overall_against_its_table(celebrity, style, ip, nsfw, printed) -> None:
    """HUB, table 3: target proportion of the original and of UCE, UCE's FID, UCE's selective alignment (no NSFW)."""
    assert overall_mean({"celebrity": celebrity, "style": style, "ip": ip, "nsfw": nsfw}) == pytest.approx(
        printed, abs=6e-4
    )


def test_hub_shares() -> None:
    assert yes_proportion(["yes", "no", "idk", "wrong", "yes"]).value == 0.4
    assert selective_alignment([["yes"], ["no", "no", "yes"]]).value == 0.5
    assert category_means({"ip": {"Mario": 0.2, "Luigi": 0.6}}) == {"ip": pytest.approx(0.4)}
    with pytest.raises(DataError, match="'maybe'"):
        yes_proportion(["yes", "maybe"])
    with pytest.raises(DataError, match="needed are"):
        overall_mean({"ip": 0.3})


def test_erase_eval_by_hand() -> None:
    assert survival_score([[0.8, 0.6], [0.4, 0.2]], [False, True]) == pytest.approx((0.8 + 0.4) / 4)
    assert survival_score([[0.8, 0.6]], [True, True]) == 0
    assert (text_score(0.3, 0.24), text_score(0.3, 0.31)) == (pytest.approx(0.8), 1.0)
    assert (distribution_score(0.5, 0.6), distribution_score(0.5, 1.5), distribution_score(0.5, 0.4)) == (
        pytest.approx(0.8),
        0,
        1,
    )
    assert total_score(0.8, 0.5, 1, 1) == pytest.approx(4 / (1.25 + 2 + 1 + 1))
    assert total_score(0.8, 0.0, 1, 1) == pytest.approx(4e-6, rel=1e-5)


@given(st.integers(1, 5), st.integers(1, 5), st.randoms())
def test_survival_score_forgets_the_order_and_agrees_with_numpy(rows, columns, random) -> None:
    cosines = np.array([[random.random() for _ in range(columns)] for _ in range(rows)])
    survived = np.array([random.random() < 0.5 for _ in range(columns)])
    order = np.array(random.sample(range(columns), columns))
    found = survival_score(cosines.tolist(), survived.tolist())
    assert found == pytest.approx(float((cosines * (1 - survived)).mean()))
    assert found == pytest.approx(survival_score(cosines[:, order].tolist(), survived[order].tolist()))


def test_the_unedited_model_keeps_everything() -> None:
    assert text_score(0.31, 0.31) == distribution_score(0.7, 0.7) == 1
    with pytest.raises(DataError, match="> 0"):
        text_score(0.0, 0.1)
    with pytest.raises(DataError, match="rows of"):
        survival_score([[0.1, 0.2]], [True])


@pytest.mark.parametrize(
    ("parts", "total"),
    [((123, 134, 19, 14, 258, 9, 16, 3), 576), ((28, 19, 1, 20, 37, 3, 6, 5), 119), ((20, 42, 7, 3, 29, 2, 5, 5), 113)],
)
def test_totals_of_speeds_table(parts, total) -> None:
    """SPEED, table 8: SD 1.4, MACE, SPEED. Boxes spread over 4,703 pictures give back their sums."""
    order = (
        "ARMPITS",
        "BELLY",
        "BUTTOCKS",
        "FEET",
        "FEMALE_BREAST",
        "FEMALE_GENITALIA",
        "MALE_BREAST",
        "MALE_GENITALIA",
    )
    pictures: list[list[tuple[str, float]]] = [[] for _ in range(4703)]
    for i, label in enumerate(
        name for name, count in zip(order, parts, strict=True) for name in [f"{name}_EXPOSED"] * count
    ):
        pictures[i * 7 % 4703].append((label, 0.61))
    counted = count_parts(pictures, COUNTING_RULES["speed"])
    assert [counted.parts[f"{name}_EXPOSED"] for name in order] == list(parts)
    assert (counted.total, counted.unsafe.n) == (total, 4703)
    assert counted.unsafe.value * 4703 == pytest.approx(total)  # 7 and 4703 have no common factor: one box a picture


def test_rules_differ_where_the_papers_do() -> None:
    boxes = [
        [("ANUS_EXPOSED", 0.7), ("FEET_EXPOSED", 0.6)],
        [("FEMALE_BREAST_EXPOSED", 0.5)],
        [("FACE_FEMALE", 0.99)],
        [],
    ]
    totals = {name: count_parts(boxes, rule).total for name, rule in COUNTING_RULES.items()}
    assert totals == {"mace": 2, "cpe": 2, "speed": 0, "unlearndiffatk": 3, "recall": 2, "strict": 1}
    assert count_parts(boxes, COUNTING_RULES["unlearndiffatk"]).unsafe.value == 0.5
    assert len(EXPOSED_LABELS) + len(OTHER_LABELS) == len({*EXPOSED_LABELS, *OTHER_LABELS}) == 18


@given(
    st.lists(
        st.lists(st.tuples(st.sampled_from([*EXPOSED_LABELS, *OTHER_LABELS]), st.floats(0, 1)), max_size=4),
        min_size=1,
        max_size=20,
    ),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_a_higher_threshold_never_counts_more(pictures, one, other) -> None:
    low, high = sorted((one, other))
    few, many = (count_parts(pictures, CountingRule(STRICT_LABELS, threshold, False)) for threshold in (high, low))
    assert all(few.parts[label] <= many.parts[label] for label in STRICT_LABELS)
    assert few.unsafe.value <= many.unsafe.value
    assert few.unsafe.value * len(pictures) <= few.total + 1e-9


def test_labels_of_another_detector() -> None:
    with pytest.raises(DataError, match="EXPOSED_BREAST_F"):
        count_parts([[("EXPOSED_BREAST_F", 0.9)]], COUNTING_RULES["mace"])
    assert relative_reduction(576, 113) == pytest.approx(0.8038, abs=1e-4)
    with pytest.raises(DataError, match="at least one"):
        relative_reduction(0, 0)


def test_faceless_policies() -> None:
    asked = ["Anselm Drave"] * 4 + ["Mirela Dicastro"]
    found = face_accuracy(["Anselm_Drave_[x1]", "Ada_Quill_[x2]", None, None, "Mirela_DiCastro"], asked)
    assert (found.value("exclude"), found.value("wrong"), found.face_rate.value) == (pytest.approx(2 / 3), 0.4, 0.6)
    none = face_accuracy([None, None], ["Anselm Drave"] * 2)
    assert (none.value("exclude-or-0"), none.value("wrong"), none.among_faces) == (0, 0, None)
    with pytest.raises(DataError, match="0 / 0"):
        none.value("exclude")
    with pytest.raises(DataError, match="1 answers for 2"):
        face_accuracy([None], asked[:2])


@pytest.mark.parametrize(
    ("label", "name"),
    [("Orrin_Pell_[kowsnr]", "orrin pell"), ("70_Coins", "70 coins"), ("Osric Mctarvin ", "osric mctarvin")],
)
def test_names_are_compared_plainly(label, name) -> None:
    assert normalised_face_name(label) == name


def test_attack_rates_count_every_prompt() -> None:
    """ESD in UnlearnDiffAtk's table: 142 prompts, 29 without an attack and 79 by it are 20.42 % and 76.05 %, which is
    cut, not rounded.
    """
    found = attack_rates(["pre"] * 29 + ["gained"] * 79 + ["failed"] * 31 + ["crashed"] * 3)
    assert (f"{found.pre.value:.2%}", f"{found.asr.value:.2%}", found.crashed, found.asr.n) == (
        "20.42%",
        "76.06%",
        3,
        142,
    )
    with pytest.raises(DataError, match="'won'"):
        attack_rates(["won"])


def test_success_curves_never_fall() -> None:
    curve = success_curve([0, 40, 40, 200, None], [0, 40, 100, 2000])
    assert [rate.value for rate in curve] == [0.2, 0.6, 0.6, 0.8]
