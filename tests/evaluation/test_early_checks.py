"""What is wrong with names and places is said before a model is opened; what is attacked is what was named."""

from dataclasses import replace
from pathlib import Path

import pytest

from unconcept.core.errors import UnconceptError
from unconcept.core.request import RequestSpec
from unconcept.evaluation.tasks.edited_model import EditedModel
from unconcept.jobs.command_options import WorstCaseOptions
from unconcept.jobs.erase_job import Job, open_erasure
from unconcept.jobs.evaluate_job import EvaluationRun, asked_of_edits, open_run
from unconcept.jobs.searches.worst_case import open_search, plan_worst_case


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"judge": "clip-score=nowhere"}, "judge clip-score=nowhere: nowhere does not exist"),
        ({"measures": ("clip-score=./no/where",)}, "--measure clip-score=./no/where: ./no/where does not exist"),
        ({"references": Path("nowhere")}, "references nowhere: the folder does not exist"),
        ({"control": "nowhere"}, "nowhere"),
        ({"out": Path(__file__)}, "exists: choose another path"),
    ],
)
def test_places_are_looked_at_before_a_model_is_opened(tmp_path, monkeypatch, changes, message) -> None:
    monkeypatch.setattr(EditedModel, "base", lambda subject: pytest.fail("a model was opened"))
    with pytest.raises(UnconceptError, match=message):
        open_run(EvaluationRun(**{"concepts": ("pizza",), "out": tmp_path / "out", **changes}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"suite": "damage", "judge": "diffusion-classifier"}, "suite damage asks about counts"),
        ({"suite": "celebrity", "judge": "nudenet"}, "suite celebrity needs a face recogniser, and nudenet is none"),
        ({"attacks": ("wordings",)}, "attacks are graded by a judge"),
        ({"rungs": ()}, "attacks are graded by a judge"),
        ({"attacks": ("recall",), "judge": "diffusion-classifier"}, "does not grade white-box attacks such as recall"),
        ({"measures": ("nudenet",)}, "--measure nudenet: it measures nothing beside a judge"),
        ({"references": Path(__file__).parent}, "suite quick has no distance of sets: leave --references out"),
    ],
)
def test_a_judge_that_does_not_fit_is_told_before_a_model_is_opened(tmp_path, monkeypatch, changes, message) -> None:
    monkeypatch.setattr(EditedModel, "base", lambda subject: pytest.fail("a model was opened"))
    given = {"concepts": ("pizza",), "out": tmp_path / "out", "model": str(tmp_path), "device": "cpu", **changes}
    with pytest.raises(UnconceptError, match=message):
        open_run(EvaluationRun(**given))


def test_sets_are_compared_by_a_judge_or_refused_before_a_model_is_opened(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(EditedModel, "base", lambda subject: pytest.fail("a model was opened"))
    options = WorstCaseOptions(concepts=("a", "b", "c"), size=2, model=str(tmp_path), device="cpu", out=tmp_path / "o")
    with pytest.raises(UnconceptError, match=r"not judged: .*: sets are compared by their pictures"):
        open_search(plan_worst_case(options))


def test_judges_of_an_erasure_are_looked_at_before_a_model_is_opened(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(EditedModel, "base", lambda subject: pytest.fail("a model was opened"))
    with pytest.raises(UnconceptError, match="judge vlm=nowhere: nowhere does not exist"):
        open_erasure(Job(ask=RequestSpec(("pizza",)), out=tmp_path / "out", judge="vlm=nowhere"))


def test_named_attacks_are_on_each_concept(tmp_path) -> None:
    run = EvaluationRun(("pizza", "star"), tmp_path, edits=(tmp_path / "e",), attacks=("wordings",))
    assert [names for _, names in asked_of_edits(run, stepwise=False)] == [("pizza",), ("star",)]
    together = asked_of_edits(replace(run, attacks=None), stepwise=False)
    assert [names for _, names in together] == [("pizza", "star")]
