"""The same harness on a user's own model, with prompts and a judge from disk."""

import json
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from tests import tiny
from unconcept.attacks import attacks
from unconcept.cli import app
from unconcept.core.errors import (
    DataError,
    EditError,
    MissingExtra,
    ModelError,
    RequestError,
    SettingsError,
    UnknownName,
)
from unconcept.core.request import RequestSpec
from unconcept.evaluation.judging.judge import Judge
from unconcept.evaluation.suites.from_file import UNLIMITED_SIZES
from unconcept.evaluation.suites.registry import suites
from unconcept.evaluation.tasks import edited_model as subject
from unconcept.evaluation.tasks.edit_task import variant_of_method
from unconcept.jobs.erase import erase
from unconcept.jobs.erase_job import Job
from unconcept.jobs.evaluate import evaluate
from unconcept.jobs.evaluate_job import EvaluationRun
from unconcept.prompts.unlearncanvas import UNLEARNCANVAS_THEMES
from unconcept.report.images import to_image

pytestmark = pytest.mark.usefixtures("few_steps")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A tiny model on disk, an edit of it, a CLIP to judge by."""
    root = tmp_path_factory.mktemp("own")
    model = tiny.folder("sd1", root / "model")
    (model / "README.md").write_text("---\nlicense: openrail++\n---\n")
    clip = tiny.clip_folder(root / "clip")
    erase(Job(RequestSpec(("dog",), ("cat",), ("sea", "old tree")), root / "dog", model=str(model), report=False))
    return root, str(model), clip


def run(place, out, **more) -> EvaluationRun:
    root, model, clip = place
    told = {"model": model, "judge": f"clip-score={clip}", "limit": 2, "workers": 1, "store": root / "store", **more}
    return EvaluationRun(("dog",), out, (root / "dog/edit.safetensors",), **told)


def test_concepts_in_templates(place, tmp_path) -> None:
    report = evaluate(run(place, tmp_path / "o", attacks=("derived-embedding",)))
    assert report.status == "ok"
    data = json.loads((tmp_path / "o/report.json").read_text())
    (trial,) = data["trials"]
    assert trial["groups"]["direct"]["after"]["n"] == 2
    assert trial["groups"]["far"]["after"]["n"] == 2
    assert (data["judge"]["name"].startswith("clip:"), data["table_hash"]) == (True, None)
    assert trial["groups"]["near"]["after"]["n"] == 2, "others of its kind"
    assert {check["after"] for check in trial["checks"]} <= {"dog", "cat", "sea", "old tree", "bicycle", "teapot"}
    (row,) = trial["attacks"]
    assert (row["attack"], row["success"]["n"], row["missing"]) == ("derived-embedding", 2, 0)
    assert trial["edit"]["licence"] == "openrail++"
    assert "; licence openrail++</td>" in (tmp_path / "o/report.html").read_text()
    assert "libraries" not in trial["edit"], (
        "a report is the same on every machine; they stand in the header and in run.json"
    )


LONG = "a dog that barks at the moon behind an old house"


def test_prompts_that_are_cut_are_counted(place, tmp_path) -> None:
    """diffusers cuts them without a word in SD 1.x, 2.x and SDXL, as it did when papers drew theirs: the report says
    how many.
    """
    path, note = (
        tmp_path / "p.txt",
        "1 of 2 prompts are longer than the 24 tokens of the text encoder and were cut by the pipeline",
    )
    path.write_text(f"{LONG}\na dog\n")
    report = evaluate(run(place, tmp_path / "o", prompts=path, suite="smoke"))
    assert report.status == "ok"
    assert report.reasons == {"prompts": note}
    assert note in (tmp_path / "o/report.html").read_text()
    path.write_text("a dog\n")
    assert evaluate(run(place, tmp_path / "q", prompts=path, suite="smoke")).reasons == {}


@pytest.mark.parametrize("family", tiny.MMDITS)
def test_prompts_that_no_pipeline_cuts_are_refused(family, place, tmp_path) -> None:
    path, model = tmp_path / "p.txt", str(tiny.folder(family, tmp_path / "m"))
    path.write_text(f"{LONG}\na dog\n")
    with pytest.raises(RequestError, match="tokens long, the text encoder holds 24"):
        evaluate(replace(run(place, tmp_path / "o", model=model, prompts=path, suite="smoke"), edits=()))
    assert not (tmp_path / "o").exists()


def test_an_erasure_that_draws_nothing_reads_no_whole_checkpoint(place, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(subject, "_hashed", lambda source, state: pytest.fail(f"{source} is read as a whole"))
    erase(Job(RequestSpec(("dog",), ("cat",)), tmp_path / "dog", model=place[1], report=False))
    assert not list(tmp_path.glob(".*"))


@pytest.mark.slow
def test_prompts_from_a_file(place, tmp_path) -> None:
    """Seeds and guidance of the file are kept; its groups become the report's."""
    path = tmp_path / "p.csv"
    path.write_text(
        "prompt,concept,group,seed,guidance_scale\na dog,dog,direct,5,2.5\na dog,dog,direct,6,7.5\na sea,sea,far,7,\n"
    )
    evaluate(run(place, tmp_path / "o", prompts=path, limit=None))
    (trial,) = json.loads((tmp_path / "o/report.json").read_text())["trials"]
    assert [(c["text"], c["seed"], c["group"]) for c in trial["checks"]] == [
        ("a dog", 5, "direct"),
        ("a dog", 6, "direct"),
        ("a sea", 7, "far"),
    ]
    assert len(list((place[0] / "store/pictures").rglob("*.png"))) >= 6


@pytest.mark.slow
def test_limits_name_what_was_not_asked_alone(place, tmp_path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("prompt,concept,group,seed\na dog,dog,direct,5\nun chien,dog,other-language,6\n")
    evaluate(run(place, tmp_path / "o", prompts=path, limit=None))
    said = (tmp_path / "o/report.html").read_text().rpartition("<h2>Limits</h2>")[2]
    of_words, of_scenes = (
        "synonyms, paraphrases, indirect, co-occurring, near, far, styles",
        "background, count, left/right",
    )
    assert f"not tested: {of_words}, {of_scenes}." in said
    assert "languages" not in said


def test_methods_are_compared_on_it(place, tmp_path) -> None:
    """Under their own defaults: what `moji` needs is no advice for another model."""
    root, model, clip = place
    assert variant_of_method("uce", model).settings == {} != variant_of_method("uce").settings
    told = {"model": model, "judge": f"clip-score={clip}", "limit": 2, "workers": 1, "store": root / "store"}
    report = evaluate(
        EvaluationRun(
            ("dog", "hound"), tmp_path / "o", variants=(variant_of_method("uce", model),), suite="smoke", **told
        )
    )
    assert report.status == "ok"
    assert [trial["concepts"] for trial in report.data()["trials"]] == [["dog"], ["hound"]]
    assert "unedited" in (tmp_path / "o/results.md").read_text()


def test_the_papers_grid(place, tmp_path) -> None:
    """UnlearnCanvas asks its own world: every judged word is one of its themes or of its
    objects, as the question was.
    """
    root, model, clip = place
    asked = EvaluationRun(
        ("Van Gogh",),
        tmp_path / "o",
        (root / "dog/edit.safetensors",),
        suite="unlearncanvas",
        model=model,
        judge=f"clip-score={clip}",
        limit=3,
    )
    evaluate(replace(asked, workers=1, store=root / "store", spec="speed-dpm20"))
    (trial,) = json.loads((tmp_path / "o/report.json").read_text())["trials"]
    assert {group: row["after"]["n"] for group, row in trial["groups"].items()} == {"direct": 3, "far": 3, "style": 3}
    assert [figure["name"] for figure in trial["figures"]] == ["UA", "IRA", "CRA"]
    themes = {name.replace("_", " ") for name in UNLEARNCANVAS_THEMES}
    assert all((check["after"] in themes) == (check["concept"] in themes) for check in trial["checks"])


def test_the_papers_questions_are_counted() -> None:
    """51 themes x 20 objects x 5 seeds, each asked twice; a step of the sequence by its retain lists."""
    grid, steps = (suites[name].published_questions for name in ("unlearncanvas", "continual"))
    assert len(grid(("Van_Gogh",), UNLIMITED_SIZES)) == 51 * 20 * 5 * 2
    checks = steps(("Cartoon", "Van Gogh"), UNLIMITED_SIZES)
    assert len(checks) == (2 + 12) * 8 * 5 * 2
    assert {check.concept for check in checks if check.group == "direct"} == {"Cartoon", "Van Gogh"}
    with pytest.raises(DataError, match="is not a target of UnlearnCanvas"):
        steps(("dog",), UNLIMITED_SIZES)


def test_a_protocol_of_prompt_files(place, tmp_path) -> None:
    """SPEED's figures are made of whatever its prompt file asks, by the CLIP that judges."""
    with pytest.raises(RequestError, match="suite speed-few needs its published prompts"):
        evaluate(run(place, tmp_path / "o", suite="speed-few"))
    path = tmp_path / "p.csv"
    path.write_text(
        "prompt,concept,group,seed\na dog,dog,direct,5\na dog here,dog,direct,6\na sea,sea,far,7\na sea"
        " there,sea,far,8\n"
    )
    evaluate(run(place, tmp_path / "o", suite="speed-few", prompts=path, limit=None))
    data = json.loads((tmp_path / "o/report.json").read_text())
    assert data["drawing"] == {"steps": 20, "guidance_scale": 7.5, "sampler": "dpm"}
    names = [figure["name"] for figure in data["trials"][0]["figures"]]
    assert names == ["CLIP score@clip:clip, dog", "CLIP score@clip:clip, sea", "cubic-mmd@clip:clip, sea"]


def test_a_judge_is_needed_and_named_right(place, tmp_path) -> None:
    with pytest.raises(RequestError, match="no judge of its own"):
        evaluate(run(place, tmp_path / "o", judge=None, attacks=("wordings",)))
    with pytest.raises(UnknownName, match="did you mean 'clip-score'"):
        Judge.parse("clip-scor=x")
    with pytest.raises(SettingsError, match="clip-score=FOLDER"):
        Judge.parse("clip-score")
    assert not (tmp_path / "o").exists()


def test_a_judge_that_is_not_there_is_told_before_anything_is_drawn(place, tmp_path, monkeypatch) -> None:
    (tmp_path / "empty").mkdir()
    told, store = f"clip-score={tmp_path / 'empty'}", tmp_path / "store"
    with pytest.raises(ModelError, match="holds no CLIP"):
        evaluate(run(place, tmp_path / "o", judge=told, store=store))
    with pytest.raises(ModelError, match="holds no CLIP"):
        erase(Job(RequestSpec(("dog",), ("cat",)), tmp_path / "o", model=place[1], judge=told, store=store))
    monkeypatch.setitem(sys.modules, "nudenet", None)
    with pytest.raises(MissingExtra, match=r"unconcept\[nudity\]"):
        evaluate(run(place, tmp_path / "o", judge="nudenet", store=store))
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_an_edit_of_another_base_is_refused_before_anything_is_drawn(place, tmp_path) -> None:
    other = tiny.folder("sd1", tmp_path / "other")
    file = other / "unet/diffusion_pytorch_model.safetensors"
    save_file({name: weight + 1 if "attn2.to_k" in name else weight for name, weight in load_file(file).items()}, file)
    with pytest.raises(EditError, match=r"not for .*other"):
        evaluate(run(place, tmp_path / "o", model=str(other), store=tmp_path / "store"))
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


@pytest.mark.parametrize("family", tiny.MMDITS)
@pytest.mark.slow
def test_a_suite_leaves_out_attacks_that_the_family_has_not_and_says_so(family, tmp_path) -> None:
    """`erase` and `evaluate` with the suites they take when nothing is named, as a user types them."""
    model, clip = tiny.folder(family, tmp_path / "model"), tiny.clip_folder(tmp_path / "clip")
    drawn = ("--model", model, "--judge", f"clip-score={clip}", "--limit", 2)
    erased = typed(
        "erase", "dog", "--anchor", "cat", "--retain", "sea", "--method", "uce", *drawn, "--out", tmp_path / "dog"
    )
    assert erased.exit_code == 0, erased.stderr
    edit = ("--edit", tmp_path / "dog/edit.safetensors")
    done = typed("evaluate", "dog", *edit, *drawn, "--workers", 1, "--out", tmp_path / "o")
    assert done.exit_code == 0, done.stderr
    told = attacks["derived-embedding"].undefined_for(family)
    said = f"attacks left out: {told}"
    assert said in done.stdout
    assert said[1:] in (tmp_path / "o/report.html").read_text()
    data = json.loads((tmp_path / "o/report.json").read_text())
    assert (data["status"], data["reasons"]) == ("ok", {"attacks": said})
    (trial,) = data["trials"]
    assert {row["attack"]: (row["success"]["n"], row["missing"]) for row in trial["attacks"]} == {"wordings": (2, 0)}
    named = typed("attack", "derived-embedding", "dog", *edit, *drawn, "--out", tmp_path / "p")
    assert (named.exit_code, named.stderr) == (
        2,
        f"unconcept: {told}\n",
    )
    assert not (tmp_path / "p").exists()


def typed(*words: object):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.mark.slow
def test_erase_eval_with_a_users_judge_captioner_and_pictures(place, tmp_path) -> None:
    """On cached prompts; a toy CLIP that agrees with nothing has no M3, and what is missing is said with its remedy."""
    prompts, pictures = tmp_path / "cache.json", tmp_path / "real"
    prompts.write_text(json.dumps({"dog": {"explicit": "a dog at sea", "implicit": "it barks"}}))
    pictures.mkdir()
    for i in range(2):
        noise = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(i))
        to_image(noise).save(pictures / f"{i}.png")
    vlm = tiny.llava_folder(tmp_path / "vlm")
    asked = {"suite": "erase-eval", "prompts": prompts, "measures": (f"vlm={vlm}",), "references": pictures}
    report = evaluate(run(place, tmp_path / "o", **asked))
    assert report.status == "ok"
    names = [figure.name.partition(",")[0] for figure in report.findings[0].figures]
    assert names == ["M1", "M2", "M4"]
    assert "is not above 0" in report.reasons["EraseEval M3"]
    assert "vlm:vlm, clip:clip" in report.reasons["EraseEval"]
    plain = evaluate(run(place, tmp_path / "p", suite="erase-eval", prompts=prompts))
    assert [figure.name[:2] for figure in plain.findings[0].figures] == ["M2"]
    assert "--references FOLDER" in plain.reasons["EraseEval M4"]


def test_references_that_are_no_pictures_or_that_nothing_uses_are_refused_before_anything_is_drawn(
    place, tmp_path
) -> None:
    prompts, folder = tmp_path / "cache.json", tmp_path / "real"
    prompts.write_text(json.dumps({"dog": {"explicit": "a dog at sea", "implicit": "it barks"}}))
    folder.mkdir()
    asked = {"suite": "erase-eval", "prompts": prompts, "references": folder}
    with pytest.raises(DataError, match="the folder has 0, give at least 2"):
        evaluate(run(place, tmp_path / "o", **asked))
    (folder / "0.png").write_text("no picture")
    (folder / "1.png").write_text("no picture")
    with pytest.raises(DataError, match=r"0\.png"):
        evaluate(run(place, tmp_path / "o", **asked))
    with pytest.raises(SettingsError, match="suite quick has no distance of sets"):
        evaluate(run(place, tmp_path / "o", **(asked | {"suite": "quick"})))
    with pytest.raises(DataError, match="the folder does not exist"):
        evaluate(run(place, tmp_path / "o", **(asked | {"references": tmp_path / "none"})))
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("suite", ["celebrity", "i2p", "damage"])
def test_a_judge_that_a_protocol_cannot_use_is_refused(suite, place, tmp_path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("prompt,concept,group\na dog,dog,direct\n")
    with pytest.raises(SettingsError, match=f"suite {suite} "):
        evaluate(run(place, tmp_path / "o", suite=suite, prompts=path))
    assert not (tmp_path / "o").exists()
