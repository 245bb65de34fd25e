"""Published suites on a user's model with the user's own classifiers: a recogniser of faces, UnlearnCanvas's two."""

import json

import pytest

from tests import tiny
from tests.classifier_toys import classifier_folder, detector_folder
from unconcept.core.errors import SettingsError
from unconcept.core.request import RequestSpec
from unconcept.jobs.erase import erase
from unconcept.jobs.erase_job import Job
from unconcept.jobs.evaluate import evaluate
from unconcept.jobs.evaluate_job import EvaluationRun
from unconcept.prompts.unlearncanvas import UNLEARNCANVAS_OBJECTS, UNLEARNCANVAS_THEMES

pytestmark = pytest.mark.usefixtures("few_steps")
NAMES = ("Ann Lee", "Bob Ray")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A tiny model on disk and an edit of it."""
    root = tmp_path_factory.mktemp("own")
    model = str(tiny.folder("sd1", root / "model"))
    erase(Job(RequestSpec((NAMES[0],), ("person",), kind="person"), root / "ann", model=model, report=False))
    return root, model


def run(place, out, concept, suite, judge, **more) -> EvaluationRun:
    root, model = place
    more = {"limit": 1, "workers": 1, "store": root / "store", **more}
    edit = (root / "ann/edit.safetensors",)
    return EvaluationRun((concept,), out, edit, model=model, suite=suite, judge=judge, **more)


def test_celebrities_by_a_recogniser_of_faces(place, tmp_path) -> None:
    folder = tmp_path / "faces"
    classifier_folder(folder / "recogniser", ("Ann_Lee_[a]", "Bob_Ray_[b]"), always="Bob_Ray_[b]")
    detector_folder(folder / "detector", finds=True)
    prompts = tmp_path / "names.json"
    prompts.write_text(json.dumps([{"prompt": f"a portrait of {name}", "concept": name} for name in NAMES]))
    judge = f"face-recogniser={folder}"
    report = evaluate(run(place, tmp_path / "o", NAMES[0], "celebrity", judge, prompts=prompts))
    assert report.status == "ok"
    made = {figure.name: figure for figure in report.findings[0].figures}
    assert (made["Acc_e"].value, made["Acc_s"].value, made["faces, erased"].value) == (0, 1, 1)
    assert made["H_c"].value == 1
    prompts.write_text(json.dumps([{"prompt": "a portrait of Cy Orr", "concept": "Cy Orr"}]))
    with pytest.raises(SettingsError, match="has no label 'Cy Orr'"):
        evaluate(run(place, tmp_path / "p", "Cy Orr", "celebrity", judge, prompts=prompts))
    assert not (tmp_path / "p").exists()


@pytest.mark.slow
def test_unlearncanvas_by_its_two_classifiers(place, tmp_path) -> None:
    folder = tmp_path / "heads"
    classifier_folder(folder / "style", UNLEARNCANVAS_THEMES, always="Ukiyoe")
    classifier_folder(folder / "object", UNLEARNCANVAS_OBJECTS, always="Dogs")
    report = evaluate(run(place, tmp_path / "o", "Van Gogh", "unlearncanvas", f"classifier={folder}"))
    assert report.status == "ok"
    made = {figure.name: figure.value for figure in report.findings[0].figures}
    assert made["UA"] == 1, "no picture is of Van Gogh by a classifier that sees Ukiyoe everywhere"
    assert "UnlearnCanvas" not in report.reasons, "nobody stands in for the paper's classifiers"
