"""What is wrong with names and places is said before a model is opened; what is attacked is what was named."""

from dataclasses import replace
from pathlib import Path

import pytest

from unconcept.core.errors import UnconceptError
from unconcept.core.request import RequestSpec
from unconcept.evaluation.tasks.edited_model import EditedModel
from unconcept.jobs.erase_job import Job, open_erasure
from unconcept.jobs.evaluate_job import EvaluationRun, asked_of_edits, open_run


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


def test_judges_of_an_erasure_are_looked_at_before_a_model_is_opened(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(EditedModel, "base", lambda subject: pytest.fail("a model was opened"))
    with pytest.raises(UnconceptError, match="judge vlm=nowhere: nowhere does not exist"):
        open_erasure(Job(ask=RequestSpec(("pizza",)), out=tmp_path / "out", judge="vlm=nowhere"))


def test_named_attacks_are_on_each_concept(tmp_path) -> None:
    run = EvaluationRun(("pizza", "star"), tmp_path, edits=(tmp_path / "e",), attacks=("wordings",))
    assert [names for _, names in asked_of_edits(run, stepwise=False)] == [("pizza",), ("star",)]
    together = asked_of_edits(replace(run, attacks=None), stepwise=False)
    assert [names for _, names in together] == [("pizza", "star")]
