"""The same harness on a user's own model, with prompts and a judge from disk."""

import json

import pytest

from tests import tiny
from unconcept.core.errors import RequestError, SettingsError, UnknownName
from unconcept.core.request import Ask
from unconcept.evaluation.erasure import Job, erase
from unconcept.evaluation.evaluate import Run, evaluate
from unconcept.evaluation.judges import Judge


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A tiny model on disk, an edit of it, a CLIP to judge by."""
    root = tmp_path_factory.mktemp("own")
    model = tiny.folder("sd1", root / "model")
    clip = tiny.clip_folder(root / "clip")
    erase(Job(Ask(("dog",), ("cat",), ("sea", "old tree")), root / "dog", model=str(model), report=False))
    return root, str(model), clip


def run(place, out, **more) -> Run:
    root, model, clip = place
    told = {"model": model, "judge": f"clip-score={clip}", "limit": 2, "workers": 1, "store": root / "store", **more}
    return Run(("dog",), out, (root / "dog/edit.safetensors",), **told)


def test_concepts_in_templates(place, tmp_path) -> None:
    report = evaluate(run(place, tmp_path / "o", attacks=("derived-embedding",)))
    assert report.status == "ok"
    data = json.loads((tmp_path / "o/report.json").read_text())
    (trial,) = data["trials"]
    assert trial["groups"]["direct"]["after"]["n"] == 2
    assert trial["groups"]["far"]["after"]["n"] == 2
    assert (data["judge"]["name"].startswith("clip:"), data["table_hash"]) == (True, None)
    assert {check["after"] for check in trial["checks"]} <= {"dog", "cat", "sea", "old tree"}
    (row,) = trial["attacks"]
    assert (row["attack"], row["success"]["n"], row["missing"]) == ("derived-embedding", 2, 0)


def test_prompts_from_a_file(place, tmp_path) -> None:
    """Seeds and guidance of the file are kept; its groups become the report's."""
    path = tmp_path / "p.csv"
    path.write_text("prompt,concept,group,seed,guidance_scale\na dog,dog,direct,5,2.5\na dog,dog,direct,6,7.5\na sea,sea,far,7,\n")
    evaluate(run(place, tmp_path / "o", prompts=path, limit=None))
    (trial,) = json.loads((tmp_path / "o/report.json").read_text())["trials"]
    assert [(c["text"], c["seed"], c["group"]) for c in trial["checks"]] == [("a dog", 5, "direct"), ("a dog", 6, "direct"), ("a sea", 7, "far")]
    assert len(list((place[0] / "store/pictures").rglob("*.png"))) >= 6


def test_a_judge_is_needed_and_named_right(place, tmp_path) -> None:
    with pytest.raises(RequestError, match="no judge of its own"):
        evaluate(run(place, tmp_path / "o", judge=None))
    with pytest.raises(UnknownName, match="did you mean 'clip-score'"):
        Judge.parse("clip-scor=x")
    with pytest.raises(SettingsError, match="clip-score=FOLDER"):
        Judge.parse("clip-score")
    assert not (tmp_path / "o").exists()
