"""The continual experiment's parts: arms, points that survive a kill, states of a sequence, and the page."""

import json
import re
from dataclasses import replace

import pytest
import torch
from PIL import Image

from benchmarks import continual, continual_sheet, sequences
from benchmarks.continual import Asked, arms_of, best, parsed, read
from benchmarks.continual_page import SHARES, page, same
from benchmarks.sequences import Arm, Course, closed, grid
from tests import tiny
from tests.killed import Killed
from tests.methods.test_erasediff import CONTRACT_SETTINGS as ERASEDIFF
from unconcept.core.request import Request
from unconcept.edits import load_edit
from unconcept.erasing.request_defaults import ResolvedRequest
from unconcept.evaluation.suites.continual import fixed_sequence_checks
from unconcept.evaluation.tasks.edited_model import EditedModel
from unconcept.ledger.drift import weight_change
from unconcept.prompts.captions import load_captions
from unconcept.prompts.checks import GroupSizes
from unconcept.worlds.table import concept_table

NAMES = ("dog", "car", "sun")
CA = {"iterations": 2, "pictures": 2, "picture_steps": 2, "batch_size": 2, "lr": 1e-3}
SETTINGS = {"concept-ablation": CA, "erasediff": ERASEDIFF}


def asked(**more) -> Asked:
    return Asked(
        **{
            "sequences": ("objects",),
            "methods": ("esd",),
            "arms": None,
            "steps": (1,),
            "n": 1,
            "cut": None,
            "tune": False,
            "many": False,
            "best": None,
            **more,
        }
    )


def point(arm: str, step: int, h: float = 0.5, method: str = "concept-ablation", edit: str = "e") -> dict:
    figures = {name: {"value": 0.8, "before": 0.9, "n": 8, "interval": [0.6, 0.9]} for name in SHARES} | {
        "H": {"value": h, "before": 0.1, "n": 24}
    }
    return {
        "key": f"{arm}{step}",
        "sequence": "objects",
        "method": method,
        "arm": arm,
        "step": step,
        "seconds": 12.0,
        "drift": 0.1,
        "edit": edit,
        "figures": figures,
    }


def test_what_is_reported_and_what_is_tuned_are_apart() -> None:
    known, report, tune = concept_table(), continual.sequences(), continual.sequences(tune=True)
    assert (len(report["objects"]), len(report["styles"]), set(tune)) == (12, 5, {"objects"})
    assert {known[name].split for names in report.values() for name in names} == {"report"}
    assert {known[name].split for name in tune["objects"]} == {"tune"}
    assert len(continual.sequences(many=True)["99-objects"]) == 99


def test_the_grid_holds_every_remedy_and_hybrid() -> None:
    labels = [arm.label for arm in grid()]
    wanted = {
        "sequential",
        "simultaneous",
        "l1sp",
        "l2sp",
        "selft",
        "projection",
        "projection-authors",
        "ties",
        "uniform",
        "task-arithmetic",
    }
    assert wanted | {"projection-l1sp", "projection-selft", "projection-ties"} == set(labels)
    assert len(grid(candidates=True)) > len(labels) == len(set(labels))


def test_elsewhere_the_best_remedy_stands_beside_plain_and_at_once() -> None:
    points = [
        point("l2sp", 3, 0.9),
        point("l2sp", 5, 0.4),
        point("projection", 5, 0.6),
        point("sequential", 5, 0.7),
        point("l2sp: l2sp 10.0", 5, 0.9),
    ]
    assert (best(points), best([])) == ("projection", None)
    assert [arm.label for arm in arms_of("objects", "esd", asked(best="projection"))] == [
        "sequential",
        "simultaneous",
        "projection",
    ]
    assert [arm.label for arm in arms_of("styles", "concept-ablation", asked())] == ["sequential", "simultaneous"]
    ledgers = ["ledger", f"ledger + {sequences.known()['captions']['uce']} captions"]
    assert [arm.label for arm in arms_of("objects", "uce", asked())] == [*ledgers, "simultaneous", "sequential"]
    assert [arm.label for arm in arms_of("100-objects", "uce", asked(many=True))] == ledgers
    assert [arm.label for arm in arms_of("objects", "adavd", asked())] == ["ledger", "simultaneous"]
    assert len(arms_of("objects", "concept-ablation", asked())) == 13


def test_a_torn_line_is_taken_out_and_whole_ones_stay(tmp_path) -> None:
    path, lines = tmp_path / "points.jsonl", [json.dumps(point("l2sp", k)) + "\n" for k in (1, 2)]
    path.write_text("".join(lines) + lines[0][:40])
    assert [found["step"] for found in read(path)] == [1, 2]
    assert path.read_text() == "".join(lines)
    assert read(tmp_path / "none.jsonl") == []


def test_the_page_says_what_was_measured(tmp_path) -> None:
    points = [
        point("sequential", 1),
        point("sequential", 12),
        point("ledger", 12, method="uce", edit="a"),
        point("simultaneous", 12, method="uce", edit="a"),
    ]
    text = page(points, 8, tmp_path)
    assert (
        "| sequential | 12 | 80.0% [60%, 90%] | 80.0% [60%, 90%] | 80.0% [60%, 90%] | 50.0% | 8 + 8 + 8 | 0.100 | 12 |"
        in text
    )
    assert "after 1 of 1 steps; after 12 requests RA-I -10.0 points, RA-C -10.0 points" in text
    assert {file.name for file in tmp_path.iterdir()} == set(re.findall(r"\((continual-.*?\.svg)\)", text))
    assert same([point("ledger", 12), point("simultaneous", 12, edit="other")]).startswith(
        "The ledger's edit is byte for byte the one of erasing all at once after 0"
    )


def test_a_contact_sheet_shows_each_state_of_a_sequence(tmp_path, monkeypatch) -> None:
    """The first arm after each step, the others after the last; no picture is of another prompt than is judged."""
    seen = []

    def pictures(subject, spec, prompts, store):
        seen.append([prompt.text for prompt in prompts])
        return [torch.full((3, 64, 64), len(seen) / 9)] * len(prompts)

    monkeypatch.setattr(continual_sheet, "pictures_of", pictures)
    monkeypatch.setattr(Course, "state", lambda self, k, tell: (tmp_path / f"{self.arm.label}-{k}", 0.0))
    monkeypatch.setattr(EditedModel, "of", lambda base, path: base)
    names = continual.sequences()["objects"]
    what = asked(methods=("uce",), steps=(1, 12), n=2)
    (((sequence, method), told),) = continual.save_sheets(what, tmp_path, tmp_path, None).items()
    assert (sequence, method) == ("objects", "uce")
    rows = ["unedited", "ledger after 1", "ledger after 12", *(f"{arm.label} after 12" for arm in closed("uce")[1:])]
    assert f"Rows, from above: {'; '.join(rows)}." in told
    assert f"Columns: {', '.join(names)}; beside them" in told
    judged = [check.prompt.text for check in fixed_sequence_checks(names, names, GroupSizes(2, 2))]
    assert seen == [seen[0]] * len(rows)
    assert {*seen[0]} <= {*judged}
    assert len(seen[0]) == len(names) + continual_sheet.OTHERS
    step = continual_sheet.SIDE + continual_sheet.GAP
    with Image.open(tmp_path / "continual-objects-uce.png") as sheet:
        assert sheet.size == (16 * step - 2, len(rows) * step - 2)
    assert told in page([point("ledger", 12, method="uce")], 8, tmp_path, sheets={("objects", "uce"): told})


def test_flags() -> None:
    found = parsed(["--steps", "3,1,3", "--arms", "l2sp, selft", "--tune"])
    assert (found.steps, found.arms, found.tune, found.n) == ((1, 3), ("l2sp", "selft"), True, 8)


@pytest.fixture
def desk(monkeypatch, tmp_path):
    """The same program on a tiny model and on words of its own."""
    monkeypatch.setattr(
        sequences, "BASE", EditedModel(str(tiny.folder("sd1", tmp_path / "base")), device="cpu", dtype="float32")
    )
    monkeypatch.setattr(
        sequences,
        "resolve_request",
        lambda ask, model: ResolvedRequest(Request(ask.targets, ("cat",), ("sea", "moon")), (), {}),
    )
    monkeypatch.setattr(Course, "settings", property(lambda self: SETTINGS.get(self.arm.method, {})))
    return tmp_path / "out"


def state(arm: Arm, root, k: int, tell=lambda what, done, of: None):
    return load_edit(Course(arm, NAMES, root).state(k, tell)[0])


def test_a_ledgers_state_is_that_of_all_at_once(desk) -> None:
    """And of the first requests, after later ones were added."""
    ledger, *_, sequential = closed("uce")
    whole, naive = state(ledger, desk, 3), state(sequential, desk, 3)
    assert state(ledger, desk / "other", 2).hash == state(ledger, desk, 2).hash != whole.hash != naive.hash


def test_steering_enters_a_sequence_by_its_ledger(desk) -> None:
    ledger, at_once = closed("adavd")
    one, two = (state(ledger, desk, k) for k in (1, 2))
    assert not two.can_bake()
    assert one.hash != two.hash == state(at_once, desk, 2).hash
    assert weight_change(sequences.BASE.base(), two)[0] == 0


def test_captions_are_retained_beside_the_tables_texts(tmp_path) -> None:
    ledger, retaining, *_ = closed("uce")
    plain, more = (Course(arm, ("pizza",), tmp_path) for arm in (ledger, retaining))
    own = plain._request("pizza").retain
    assert more._request("pizza").retain == (*own, *load_captions("everyday")[: retaining.captions])
    assert own
    assert more.folder != plain.folder


@pytest.mark.slow
def test_erasediff_is_a_base_under_every_remedy(desk) -> None:
    """After two requests each arm has another state, but for merges of two, where half the sum is the mean."""
    arms = grid("erasediff")
    hashes = {arm.label: state(arm, desk, 2).hash for arm in arms if arm.rule != "simultaneous"}
    assert len(set(hashes.values())) == len(hashes) - 1
    assert hashes["uniform"] == hashes["task-arithmetic"]
    assert "erasediff" in continual.BESIDE
    assert sequences.BUDGET["erasediff"] == "epochs"


@pytest.mark.parametrize("label", [pytest.param("projection-selft", marks=pytest.mark.slow), "ties"])
def test_a_sequence_that_is_killed_goes_on(label, desk) -> None:
    (arm,) = (arm for arm in grid() if arm.label == label)
    if arm.regularisers:
        arm = replace(arm, regularisers={**arm.regularisers, "selft_draws": 2})
    whole = [state(arm, desk / "whole", k) for k in (1, 3)]
    seen = []

    def dying(what, done, of):
        seen.append(what)
        if len(seen) == 3:  # in the second request
            raise Killed

    with pytest.raises(Killed):
        state(arm, desk / "cut", 3, dying)
    assert [state(arm, desk / "cut", k).hash for k in (1, 3)] == [edit.hash for edit in whole]
    (ledger,) = (desk / "cut").glob("*/ledger/entries.jsonl")
    ledger.write_bytes(ledger.read_bytes() + b'{"half')
    assert state(arm, desk / "cut", 3).hash == whole[1].hash
    assert not any(bool(torch.isnan(t).any()) for t in whole[1].tensors().values())


def test_arms_that_merge_otherwise_share_their_trainings(desk) -> None:
    merges = [arm for arm in grid() if arm.rule == "merge" and not arm.regularisers]
    assert len({Course(arm, NAMES, desk).folder for arm in merges}) == 1
    assert len({Course(arm, NAMES, desk).key(3) for arm in merges}) == len(merges) == 3
    assert len({state(arm, desk, 3).hash for arm in merges}) == 3  # Of two requests half their sum is their mean.


@pytest.mark.slow
def test_points_are_measured_once_and_gone_on_with(desk, monkeypatch) -> None:
    """The whole program on two short arms: a kill while pictures are drawn, then the rest; nothing is made or measured
    twice.
    """
    monkeypatch.setattr(continual, "sequences", lambda tune, many: {"objects": ("pizza", "crown")})
    monkeypatch.setenv("UNCONCEPT_STORE", str(desk.parent / "store"))
    config = desk.parent / "base/unet/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"sample_size": 32}))  # pictures that the judge takes
    what = asked(methods=("concept-ablation",), arms=("sequential", "projection"), steps=(1, 2))

    def run(tell=lambda what, done, of: None):
        return continual.measure(what, desk, None, tell)

    def dying(what, done, of):
        if what == "draw" and list(desk.glob("points.jsonl")):
            raise Killed

    desk.mkdir()
    with pytest.raises(Killed):
        run(dying)
    assert len(read(desk / "points.jsonl")) == 1
    points, missing = run()
    assert missing == 0
    assert [(found["arm"], found["step"]) for found in points] == [
        ("sequential", 1),
        ("sequential", 2),
        ("projection", 1),
        ("projection", 2),
    ]
    assert len(read(desk / "points.jsonl")) == 4
    again, left = continual.measure(what, desk, 0.0, lambda what, done, of: pytest.fail("all is there"))
    assert ([found["key"] for found in again], left) == ([found["key"] for found in points], 0)
    assert continual.measure(replace(what, n=2), desk, 0.0, lambda what, done, of: None) == ([], 4)
    assert [found["figures"]["UA"]["n"] for found in points] == [1, 2, 1, 2]
    assert all(found["drift"] > 0 for found in points)
    sheets = continual.save_sheets(what, desk, desk, lambda what, done, of: pytest.fail("all is there"))
    assert "sequential after 1; sequential after 2; projection after 2" in sheets["objects", "concept-ablation"]
    with Image.open(desk / "continual-objects-concept-ablation.png") as sheet:
        assert sheet.size == (6 * 50 - 2, 4 * 50 - 2)
    # The first point of both is the same.
    monkeypatch.setattr(continual, "sequences", lambda tune, many: {"more": ("pizza", "car")})
    once, left = continual.measure(
        replace(what, sequences=("more",), steps=(1,)), desk, 0.0, lambda what, done, of: pytest.fail("all is there")
    )
    assert ({(found["sequence"], found["step"]) for found in once}, left) == ({("more", 1)}, 0)
