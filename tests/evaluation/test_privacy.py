"""Of an explicit concept scores stay, and pictures and found inputs do not, unless the user asks for them."""

import json

import pytest

from tests import tiny
from unconcept.core.errors import RequestError
from unconcept.core.request import RequestSpec
from unconcept.jobs.command_options import SamplingOptions
from unconcept.jobs.erase import erase
from unconcept.jobs.erase_job import Job
from unconcept.jobs.evaluate import evaluate
from unconcept.jobs.evaluate_job import EvaluationRun
from unconcept.jobs.sample import sample

pytestmark = pytest.mark.usefixtures("few_steps")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A tiny model on disk, an edit of an explicit concept, a CLIP to judge by."""
    root = tmp_path_factory.mktemp("private")
    model = tiny.folder("sd1", root / "model")
    clip = tiny.clip_folder(root / "clip")
    spec = RequestSpec(("dog",), ("cat",), ("sea", "old tree"), kind="explicit")
    erase(Job(spec, root / "dog", model=str(model), report=False))
    return root, str(model), clip


def test_one_explicit_edit_among_others_is_enough(place, tmp_path) -> None:
    root, model, clip = place
    erase(Job(RequestSpec(("dog",), ("cat",), ("sea",)), tmp_path / "plain", model=model, report=False))
    edits = (tmp_path / "plain/edit.safetensors", root / "dog/edit.safetensors")
    told = {"model": model, "judge": f"clip-score={clip}", "limit": 1, "workers": 1, "store": tmp_path / "store"}
    evaluate(EvaluationRun(("dog",), tmp_path / "o", edits, suite="smoke", **told))
    assert not any(tmp_path.rglob("*.png"))


@pytest.mark.parametrize("keeps", [False, True])
def test_pictures_stay_only_if_asked_for(place, tmp_path, keeps) -> None:
    root, model, clip = place
    told = {"model": model, "judge": f"clip-score={clip}", "limit": 1, "workers": 1, "store": tmp_path / "store"}
    told |= {"suite": "smoke", "attacks": ("derived-embedding",), "store_pictures": keeps}
    evaluate(EvaluationRun(("dog",), tmp_path / "o", (root / "dog/edit.safetensors",), **told))
    trial = json.loads((tmp_path / "o/report.json").read_text())["trials"][0]
    assert trial["groups"]["direct"]["after"]["n"] == 1
    assert trial["attacks"][0]["success"]["n"] == 1
    assert ("<img" in (tmp_path / "o/report.html").read_text()) == keeps
    assert ("--store-pictures" in (tmp_path / "o/report.html").read_text()) != keeps
    assert any(tmp_path.rglob("*.png")) == keeps
    assert (tmp_path / "o/found").exists() == keeps
    assert {path.stat().st_mode & 0o777 for path in tmp_path.glob("o/found/*")} == ({0o600} if keeps else set())


def test_an_erasure_keeps_none_either(place, tmp_path) -> None:
    _, model, clip = place
    spec = RequestSpec(("dog",), ("cat",), ("sea",), kind="explicit")
    job = Job(spec, tmp_path / "o", model=model, judge=f"clip-score={clip}", store=tmp_path / "store")
    assert erase(job).report.judged
    assert not any(tmp_path.rglob("*.png"))
    assert "<img" not in (tmp_path / "o/report.html").read_text()


def test_what_is_never_drawn_is_refused_before_anything_is_made(place, tmp_path) -> None:
    root, model, clip = place
    spec = RequestSpec(("nude child",), ("",), kind="explicit")
    with pytest.raises(RequestError, match="never drawn"):
        erase(Job(spec, tmp_path / "o", model=model))
    with pytest.raises(RequestError, match="never drawn"):
        sample(SamplingOptions(prompts=("a nude child",), model=model, out=tmp_path / "o"))
    edit = root / "dog/edit.safetensors"
    with pytest.raises(RequestError, match="never drawn"):
        evaluate(EvaluationRun(("nude child",), tmp_path / "o", (edit,), model=model, judge=f"clip-score={clip}"))
    assert not (tmp_path / "o").exists()
    assert erase(Job(spec, tmp_path / "o", model=model, report=False)).edit.parameters
