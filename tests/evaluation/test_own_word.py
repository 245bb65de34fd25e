"""A number on one's own model without any other: who judges, what it costs, and what it may not grade."""

import json
from dataclasses import replace
from inspect import signature
from types import SimpleNamespace

import pytest

from tests import tiny
from unconcept.attacks import attacks
from unconcept.core.errors import RequestError, SettingsError
from unconcept.core.request import RequestSpec
from unconcept.evaluation.attacks.selection import gradable_attacks
from unconcept.evaluation.judging import choice
from unconcept.evaluation.judging.choice import NOT_JUDGED_NOTE, OWN_JUDGE, announce_judge, choose_judge
from unconcept.evaluation.judging.judge import Judge, answer_readers
from unconcept.evaluation.judging.rates import JudgeCalibration
from unconcept.evaluation.suites.registry import suites
from unconcept.evaluation.tasks.edited_model import EditedModel
from unconcept.jobs.erase import erase
from unconcept.jobs.erase_job import Job
from unconcept.jobs.evaluate import evaluate
from unconcept.jobs.evaluate_job import EvaluationRun
from unconcept.metrics.intervals import wilson
from unconcept.scorers import scorers


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A tiny model on disk and an edit of it, reported with pictures."""
    root = tmp_path_factory.mktemp("own")
    model = tiny.folder("sd1", root / "model")
    told: list[str] = []
    job = Job(
        RequestSpec(("dog",), ("cat",), ("sea", "old tree")), root / "dog", model=str(model), store=root / "store"
    )
    job = replace(job, sizes=replace(job.sizes, direct=2, other=2))
    erase(job, lambda what, done, of: told.append(what))
    return root, str(model), told


def run(place, out, **more) -> EvaluationRun:
    root, model, _ = place
    told = {"model": model, "suite": "smoke", "limit": 2, "workers": 1, "store": root / "store", **more}
    return EvaluationRun(("dog",), out, (root / "dog/edit.safetensors",), **told)


def test_on_a_cpu_pictures_are_shown_and_not_judged(place, tmp_path) -> None:
    root, _, told = place
    assert any(what.startswith(NOT_JUDGED_NOTE) for what in told)
    page = (root / "dog/report.html").read_text()
    assert "Not judged" in page
    assert "--judge diffusion-classifier" in page
    report = evaluate(run(place, tmp_path / "o", suite="quick"))
    assert (report.status, report.judged) == ("ok", False)
    assert report.reasons["graded"].startswith("attacks left out, because nobody judges: ")


def test_the_model_judges_itself_after_its_cost_is_told(place, tmp_path) -> None:
    told: list[str] = []
    evaluate(run(place, tmp_path / "o", judge=OWN_JUDGE), lambda what, done, of: told.append(what))
    costs = [i for i, what in enumerate(told) if " s a picture by one timed step: " in what]
    drawn = [i for i, what in enumerate(told) if what.startswith("draw")]
    assert costs[0] < min(drawn, default=len(told))
    data = json.loads((tmp_path / "o/report.json").read_text())
    (trial,) = data["trials"]
    assert (data["judge"]["name"], trial["groups"]["direct"]["after"]["n"]) == (OWN_JUDGE, 2)
    assert {check["after"] for check in trial["checks"]} <= {"dog", "cat", "sea", "old tree", "nothing"}
    page = (tmp_path / "o/report.html").read_text()
    assert page.count("own word") >= 2, "in the verdict and beside the numbers"
    assert "minutes" not in json.dumps(data), "what a run costs differs from machine to machine"


def test_the_model_judges_unasked_only_on_an_accelerator() -> None:
    own, views = Judge("moji-judge"), {}
    for kind in ("cpu", "cuda", "mps"):
        views[kind] = SimpleNamespace(base=lambda kind=kind: SimpleNamespace(device=SimpleNamespace(type=kind)))
    assert choose_judge(None, None, views["cpu"]) is None
    for kind in ("cuda", "mps"):
        found = choose_judge(None, None, views[kind])
        assert (found.scorer, found.model) == (OWN_JUDGE, views[kind])
        assert choose_judge(None, own, views[kind]) == own, "a world's own judge comes first"
        assert choose_judge("nudenet", None, views[kind]).scorer == "nudenet"


def test_a_clip_in_the_cache_is_offered(tmp_path, monkeypatch) -> None:
    for name, kind in (("org--clip", "clip"), ("org--other", "t5"), ("org--damaged", None)):
        folder = tmp_path / f"models--{name}/snapshots/0"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{" if kind is None else json.dumps({"model_type": kind}))
        (folder / "model.safetensors").touch()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    told: list[str] = []
    notes = announce_judge(None, 4, lambda what, done, of: told.append(what))
    assert told[0].endswith("a CLIP is in your cache: --judge clip-score=org/clip")
    assert notes == {"judge": NOT_JUDGED_NOTE}, "a report says nothing of this machine"
    monkeypatch.setattr(choice, "cached_clips", list)
    announce_judge(None, 4, lambda what, done, of: told.append(what))
    assert told[1] == NOT_JUDGED_NOTE


@pytest.mark.parametrize("name", [name for name in attacks if attacks[name].white_box])
def test_it_never_grades_a_white_box_attack(name) -> None:
    judge, suite = Judge(OWN_JUDGE), replace(suites["attack"], attacks=(name,))
    with pytest.raises(SettingsError, match=f"does not grade white-box attacks such as {name}"):
        gradable_attacks(suite, (name,), judge)
    left, told = gradable_attacks(suite, (), judge)
    assert left.attacks == ()
    assert name in told["graded"]
    assert gradable_attacks(suite, (name,), Judge("moji-judge")) == (suite, {})


def test_it_grades_what_climbs_no_error() -> None:
    left, told = gradable_attacks(suites["attack"], ("*",), Judge(OWN_JUDGE))
    assert set(left.attacks) == {name for name in attacks if not attacks[name].white_box}
    assert {"ring-a-bell", "wordings", "sdedit", "completion"} <= set(left.attacks)
    assert "p4d" in told["graded"]
    assert "recall" in told["graded"]
    with pytest.raises(RequestError, match="attacks are graded by a judge: "):
        gradable_attacks(suites["attack"], ("p4d",), None)


@pytest.mark.parametrize(
    ("found", "false", "warning"),
    [
        (0, 0, "in 0 of 24 pictures drawn for it"),
        (24, 36, "in 36 of 36 pictures drawn for something else"),
        (20, 3, ""),
    ],
)
def test_a_judge_that_finds_the_target_nowhere_or_everywhere_is_flagged(found, false, warning) -> None:
    trust = JudgeCalibration(wilson(found, 24), wilson(false, 36), wilson(0, 60))
    assert bool(trust.warning) == bool(warning)
    assert warning in trust.warning
    assert str(trust).endswith(f" {trust.warning}." if warning else "of all 60.")


def test_a_judge_by_the_model_needs_one() -> None:
    with pytest.raises(SettingsError, match="give the model"):
        Judge(OWN_JUDGE).open()
    assert Judge(OWN_JUDGE).for_model(EditedModel()).model == EditedModel()
    assert Judge("moji-judge").for_model(EditedModel()).model is None


@pytest.mark.parametrize("name", [name for name, reader in answer_readers().items() if reader.wants_path is None])
def test_a_path_is_refused_by_a_judge_that_takes_none(name) -> None:
    if "path" in signature(scorers[name].build).parameters:
        assert Judge.parse(f"{name}=x").path == "x"
    else:
        with pytest.raises(SettingsError, match=f"judge {name}=x: it takes no path"):
            Judge.parse(f"{name}=x")
