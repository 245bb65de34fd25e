"""Protocols: what they ask, and that their figures are the papers' formulas."""

from pathlib import Path

import jsonschema
import pytest
import torch

from unconcept.evaluation.judging.evidence import TrialEvidence
from unconcept.evaluation.judging.image_metrics import kept_variety
from unconcept.evaluation.judging.judge import ImageMeasures, Judge
from unconcept.evaluation.judging.rates import PairedAnswer
from unconcept.evaluation.suites.continual import fixed_sequence_checks
from unconcept.evaluation.suites.from_file import UNLIMITED_SIZES
from unconcept.evaluation.suites.registry import suites
from unconcept.jobs.evaluate_job import EvaluationRun, suite_of_run
from unconcept.prompts.checks import REPORT_SEEDS, GroupSizes
from unconcept.prompts.sets import SCENE_GROUPS
from unconcept.report.data import FigureData
from unconcept.worlds.table import concept_table

TABLE, MOJI_JUDGE = concept_table(), Judge("moji-judge")
CONCEPTS = {
    "unlearncanvas": ("ink",),
    "continual": ("pizza", "crown"),
    "speed-many": ("pizza", "crown", "rocket"),
    "debias": ("teacher",),
    "celebrity": ("teacher",),
    "mace-artists": ("ink",),
}


def evidence(name: str, concepts: tuple[str, ...], kept: float = 1.0) -> TrialEvidence:
    """Planted answers: before, all is drawn; after, erased concepts never are and a share of each other one is."""
    suite = suites[name]
    seen: dict[str, int] = {}
    answers = []
    for check in suite.checks(concepts):
        number = seen[check.concept + check.by] = seen.get(check.concept + check.by, -1) + 1
        gone = check.concept in concepts or number % 4 >= 4 * kept
        answers.append(PairedAnswer(check, check.labels[0], "nothing" if gone else check.labels[0]))
    return TrialEvidence(concepts, tuple(answers), dict, MOJI_JUDGE)


@pytest.mark.parametrize("name", list(suites))
def test_questions_are_sound(name) -> None:
    """Report seeds unless it tunes; only what is held out, or what the protocol names; the same each time."""
    suite = suites[name]
    checks = suite.checks(CONCEPTS.get(name, ("dog face",)))
    assert checks == suite.checks(CONCEPTS.get(name, ("dog face",)))
    assert len(set(checks)) == len(checks) > 0
    assert all((check.prompt.seed >= REPORT_SEEDS) != suite.sizes.tuning for check in checks)
    labels = {*TABLE.labels, *(style.name for style in TABLE.styles)}
    assert all(set(check.labels) <= labels for check in checks if check.group not in SCENE_GROUPS)
    assert all(check.by in MOJI_JUDGE.reader.aspects for check in checks)
    small = suite.with_limit(1, 7).checks(CONCEPTS.get(name, ("dog face",)))
    assert len(small) < len(checks)
    assert not {check.prompt for check in small} & {check.prompt for check in checks}, "another seed is other noise"


@pytest.mark.parametrize("target", ["ink", "dog face"])
def test_grid(target) -> None:
    """A perfect eraser of one receiver; the other receivers of both domains keep half of their pictures."""
    found = evidence("unlearncanvas", (target,), kept=0.5)
    ua, ira, cra = suites["unlearncanvas"].figures(found)
    assert (ua.name, ua.value, ua.before) == ("UA", 1.0, 0.0)
    assert (ira.name, ira.value, ira.before, ira.n) == ("IRA", 0.5, 1.0, 7 if target == "ink" else 11)
    assert (cra.name, cra.value, cra.before, cra.n) == ("CRA", 0.5, 1.0, 12 if target == "ink" else 8)


def test_means_over_targets() -> None:
    """UnlearnCanvas prints means over its 50 styles and its 20 objects apart, with their own denominators."""
    pool = suites["unlearncanvas"].pool
    figures = {kept: suites["unlearncanvas"].figures(evidence("unlearncanvas", ("ink",), kept)) for kept in (0.5, 1.0)}
    things = suites["unlearncanvas"].figures(evidence("unlearncanvas", ("dog face",), 1.0))
    told = pool(
        [
            ("uce", ("ink",), figures[0.5]),
            ("uce", ("flat",), figures[1.0]),
            ("uce", ("dog face",), things),
            ("esd", ("ink",), ()),
        ]
    )
    assert told == {
        "UnlearnCanvas, uce, style targets": "mean of 2: UA 100.00%, IRA 75.00%, CRA 75.00%, over 7 others of the"
        " domain and 12 of the other",
        "UnlearnCanvas, uce, object targets": "mean of 1: UA 100.00%, IRA 100.00%, CRA 100.00%, over 11 others of the"
        " domain and 8 of the other",
    }
    paper = suites["unlearncanvas"].published_questions(("Van_Gogh",), UNLIMITED_SIZES)
    receivers = {(check.by, check.concept) for check in paper}
    assert [sum(by == name for by, _ in receivers) for name in ("style", "object")] == [51, 20]


def test_many() -> None:
    acc_e, acc_r, h = suites["speed-many"].figures(evidence("speed-many", CONCEPTS["speed-many"]))
    assert (acc_e.value, acc_e.before, acc_e.n) == (0.0, 1.0, 15)
    assert (acc_r.value, acc_r.n) == (1.0, 50)
    assert (h.value, h.before) == (1.0, 0.0)


def test_steps_of_a_sequence() -> None:
    ua, inside, across, h = suites["continual"].figures(evidence("continual", CONCEPTS["continual"], kept=0.5))
    assert [f.name for f in (ua, inside, across, h)] == ["UA", "RA-I", "RA-C", "H"]
    assert (ua.value, inside.value) == (1.0, 0.5)
    assert h.value == pytest.approx(3 / (1 / ua.value + 1 / inside.value + 1 / across.value))
    assert suites["continual"].stepwise
    assert (ua.interval[1], ua.n, inside.before_interval[1]) == (1.0, 16, 1.0)
    assert inside.interval[0] < 0.5 < inside.interval[1]


def test_what_is_retained_is_the_same_at_every_step_of_a_known_sequence() -> None:
    sequence, sizes = ("pizza", "crown", "dog face"), suites["continual"].sizes
    steps = [fixed_sequence_checks(sequence, sequence[:k], sizes) for k in (1, 2, 3)]
    kept = [[check for check in asked if check.group != "direct"] for asked in steps]
    assert kept[0] == kept[1] == kept[2]
    assert {check.concept for check in steps[1] if check.group == "direct"} == set(sequence[:2])
    tuning = fixed_sequence_checks(("guitar",), ("guitar",), GroupSizes(2, 2, tuning=True))
    assert all(
        check.prompt.seed < REPORT_SEEDS and TABLE[check.concept].split == "tune"
        for check in tuning
        if check.group != "style"
    )


def test_counting_is_over_every_harmful_concept() -> None:
    suite = suites["i2p"]
    checks = suite.checks(("bomb",))
    harmful = {entry.name for entry in TABLE.entries if entry.kind == "harmful" and entry.indirect.all}
    assert {check.concept for check in checks} == harmful
    answers = tuple(
        PairedAnswer(check, check.labels[0], check.labels[0] if i % 4 else "nothing") for i, check in enumerate(checks)
    )
    total, reduced = suite.figures(TrialEvidence(("bomb",), answers, dict, MOJI_JUDGE))
    assert (total.before, total.n) == (len(checks), len(checks))
    assert reduced.value == pytest.approx(1 - total.value / len(checks))


def test_parts_are_counted_by_every_rule() -> None:
    """NudeNet's raw boxes: 0.55 counts for UnlearnDiffAtk's rule alone, feet for none of the strict ones."""
    suite = suites["i2p"]
    answers = tuple(PairedAnswer(check, "nothing", "nothing") for check in suite.checks(("bomb",))[:2])
    box = {"class": "FEMALE_BREAST_EXPOSED", "score": 0.9}
    before = {"boxes": [box, {"class": "FEET_EXPOSED", "score": 0.7}]}
    after = {"boxes": [{"class": "FEMALE_BREAST_EXPOSED", "score": 0.55}]}
    found = TrialEvidence(
        ("nudity",), answers, dict, Judge("nudenet"), lambda: [(before, after), ({"boxes": []}, {"boxes": []})]
    )
    figures = {figure.name: figure for figure in suite.figures(found)}
    assert {
        name: (figures[f"total, {name}"].before, figures[f"total, {name}"].value)
        for name in ("mace", "unlearndiffatk", "strict")
    } == {
        "mace": (2, 0),
        "unlearndiffatk": (2, 1),
        "strict": (1, 0),
    }
    assert figures["unsafe, mace"].before == 0.5
    assert figures["reduction, unlearndiffatk"].value == 0.5


@pytest.mark.parametrize("count", [1, 7, 100])
def test_erased_together_they_share_the_prompts(count) -> None:
    """About as many prompts a group however many are erased; none of them is another one's neighbour or style."""
    objects = tuple(
        entry.name for entry in TABLE.entries if entry.erasable and entry.split == "report" and entry.kind == "object"
    )[:count]
    checks = suites["together"].checks(objects)
    for group in ("direct", "far"):
        asked = [check for check in checks if check.group == group]
        assert 40 <= len(asked) <= 48 + count, "the same far prompt of two concepts is one"
    assert {check.concept for check in checks if check.group == "direct"} == set(objects)
    assert not {check.concept for check in checks if check.group == "near"} & set(objects)
    styles = tuple(entry.name for entry in TABLE.styles)[:4]
    assert not {check.concept for check in suites["together"].checks(styles) if check.group == "style"} & set(styles)


def test_kept_variety_is_of_pictures_of_one_text() -> None:
    """The second of each two pictures is the first one, moved towards it by half after the edit: half the variety."""

    class Distance:
        name, version, hash = "difference", 1, "0"

        def compare(self, before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
            return (before - after).abs().mean((1, 2, 3))

    before = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    after = before.clone()
    after[1], after[3] = (before[0] + before[1]) / 2, (before[2] + before[3]) / 2
    by = ImageMeasures(pair=Distance())
    (figure,) = kept_variety(by, "far", before, after, ["a fox", "a fox", "a key", "a key", "a dog"])
    assert (figure.name, figure.before, figure.n) == ("variety kept@difference, far", 1.0, 2)
    jsonschema.validate(figure.name, FigureData.model_json_schema()["properties"]["name"])
    assert figure.value == pytest.approx(0.5)
    assert kept_variety(by, "far", before[:2], after[:2], ["a fox", "a key"]) == []
    assert kept_variety(by, "far", before[[0, 0]], after[:2], ["a fox", "a fox"]) == [], "no variety to keep"
    assert kept_variety(ImageMeasures(), "far", before[:2], after[:2], ["a fox", "a fox"]) == []


def test_a_judge_is_asked_what_it_can_tell() -> None:
    checks = suites["smoke"].checks(("dog face",))
    assert MOJI_JUDGE.answerable(checks) == checks
    kept = Judge("clip-score", "somewhere").answerable(checks)
    assert {check.group for check in checks} - {check.group for check in kept} == set(SCENE_GROUPS)
    labels = Judge("clip-score", "somewhere").with_labels((), checks).labels
    assert "two" not in labels
    assert "dog face" in labels


@pytest.mark.parametrize(("asked", "wanted"), [(None, ("*",)), ((), ()), (("p4d",), ("p4d",)), (("*",), ("*",))])
def test_no_attack_is_none_and_not_every_one(asked, wanted) -> None:
    run = EvaluationRun(("guitar",), Path("out"), suite="attack", attacks=asked)
    assert suite_of_run(run).attacks == wanted
