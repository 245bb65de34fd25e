"""The commands as a user types them: what they print, write, refuse."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from tests import tiny
from unconcept.cli import app
from unconcept.models import find_model
from unconcept.models.families import FAMILIES
from unconcept.worlds.registry import worlds

RUN = CliRunner()


def run(*words: object):
    return RUN.invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def dog(tmp_path_factory) -> Path:
    """A finished erasure with a picture of each question, in fewer steps than `moji` usually takes."""
    out = tmp_path_factory.mktemp("dog") / "dog"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(worlds._known, "moji", replace(worlds["moji"], steps=4))
        result = run("erase", "dog face", "--limit", 1, "--out", out)
    assert result.exit_code == 0, result.stderr
    return out


def test_main_job_writes_everything(dog) -> None:
    assert {path.name for path in dog.iterdir()} == {
        "edit.safetensors",
        "report.html",
        "report.json",
        "results.csv",
        "samples",
        "README.md",
        "run.json",
    }
    report = json.loads((dog / "report.json").read_text())
    assert report["status"] == "ok"
    (trial,) = report["trials"]
    assert trial["groups"]["direct"]["after"]["n"] == 1
    assert trial["edit"]["targets"] == ["dog face", "puppy face", "doggy"]
    assert trial["edit"]["report"]["residual"] < 0.5
    assert {"near", "far", "synonym", "style", "co-occurring"} <= set(trial["groups"])
    run_json = json.loads((dog / "run.json").read_text())
    assert {"libraries", "seconds", "peak_memory_bytes", "edits"} <= set(run_json)
    assert len(list((dog / "samples").glob("*-before.png"))) == len(list((dog / "samples").glob("*-after.png"))) > 4


def test_page_is_one_file_without_links(dog) -> None:
    page = (dog / "report.html").read_text()
    assert "data:image/png;base64," in page
    assert 'src="http' not in page
    assert "the judge answers" in page
    card = (dog / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: diffusers\n")
    assert "On the unedited model the judge finds the target in" in card
    assert "| nothing after | n |" in card
    assert "unconcept apply edit.safetensors" in card


@pytest.mark.slow
def test_defaults_come_with_reasons(tmp_path) -> None:
    result = run("erase", "dog face", "--limit", 1, "--out", tmp_path / "o")
    assert result.exit_code == 0, result.stderr
    for word in (
        "settings: recipe moji-uce",
        "method: uce",
        "anchors: the anchor in moji's table",
        "retain: the given near neighbours",
        "finds the target in",
        "report.html",
    ):
        assert word in result.stdout
    assert "edit: 1/1" in result.stderr


@pytest.mark.slow
def test_json_is_json(tmp_path) -> None:
    result = run("erase", "ink", "--limit", 1, "--out", tmp_path / "o", "--json", "--quiet")
    assert json.loads(result.stdout)["trials"][0]["edit"]["kind"] == "style"


def test_apply_makes_a_stock_folder(dog, tmp_path) -> None:
    from diffusers import StableDiffusionPipeline

    assert run("apply", dog / "edit.safetensors", "--out", tmp_path / "m").exit_code == 0
    StableDiffusionPipeline.from_pretrained(tmp_path / "m", local_files_only=True)
    before, after = (
        load_file(folder / "unet/diffusion_pytorch_model.safetensors")
        for folder in (find_model("moji"), tmp_path / "m")
    )
    assert {before[name].dtype for name in before} == {after[name].dtype for name in after}
    changed = [name for name in before if not before[name].equal(after[name])]
    assert changed
    assert all("attn2.to_" in name for name in changed)


def test_no_strength_is_the_same_model(dog, tmp_path) -> None:
    assert run("apply", dog / "edit.safetensors", "--strength", 0, "--out", tmp_path / "m").exit_code == 0
    file = "unet/diffusion_pytorch_model.safetensors"
    assert (tmp_path / "m" / file).read_bytes() == (find_model("moji") / file).read_bytes()


def test_sample_draws_with_and_without(dog, tmp_path) -> None:
    words = ("sample", "a dog face in flat style", "a goat", "--steps", 2, "--seed", 3)
    assert run(*words, "--out", tmp_path / "a").exit_code == 0
    assert run(*words, "--edit", dog / "edit.safetensors", "--out", tmp_path / "b").exit_code == 0
    assert run(*words, "--edit", dog / "edit.safetensors", "--strength", 0, "--out", tmp_path / "c").exit_code == 0
    a, b, c = ((tmp_path / name / "000.png").read_bytes() for name in "abc")
    assert a == c != b


@pytest.mark.slow
def test_an_edit_is_evaluated_attacked_and_replayed(dog, tmp_path) -> None:
    edit = dog / "edit.safetensors"
    words = ("dog face", "--edit", edit, "--limit", 1, "--quiet", "--out")
    told = run("evaluate", *(word for word in words if word != "--quiet"), tmp_path / "e", "--suite", "smoke")
    assert (told.exit_code, "On the unedited model the judge finds the target in" in told.stdout) == (0, True)
    assert {"target", "synonyms", "styles"} <= {*told.stdout.split()} >= {"co-occurring"}
    assert "direct" not in told.stdout
    assert "(1; 0%)" in told.stdout, "beside each rate its count, and the share of nothing"
    result = run("attack", "derived-embedding", *words, tmp_path / "a", "--json")
    assert result.exit_code == 0, result.stderr
    (row,) = json.loads(result.stdout)["trials"][0]["attacks"]
    assert row["attack"] == "derived-embedding"
    (found,) = (tmp_path / "a/found").iterdir()
    assert (
        run("sample", "--found", found, "--edit", edit, "--steps", 2, "--out", tmp_path / "s", "--quiet").exit_code == 0
    )
    assert len(list((tmp_path / "s").glob("*.png"))) == 1
    late = run("bench", "dog face", "--suite", "smoke", "--limit", 1, "--max-minutes", 0, "--out", tmp_path / "b")
    assert (late.exit_code, "PARTIAL" in late.stderr) == (1, True)


def test_registries_are_listed() -> None:
    for table, name in (("attacks", "p4d"), ("scorers", "moji-judge"), ("suites", "quick"), ("specs", "speed-dpm20")):
        assert name in run(table).stdout
        assert name in [row["name"] for row in json.loads(run(table, "--json").stdout)]


def test_methods_are_listed() -> None:
    assert "arXiv:2308.14761" in run("methods").stdout
    (uce,) = [row for row in json.loads(run("methods", "--json").stdout) if row["name"] == "uce"]
    assert uce["settings"]["lamb"] == 0.5


def test_no_effect_fails_and_keeps_what_was_made(tmp_path) -> None:
    result = run("erase", "dog face", "--set", "lamb=1e12", "--no-report", "--out", tmp_path / "o")
    assert result.exit_code == 1
    assert "FAILED: no effect" in result.stderr
    assert (tmp_path / "o" / "edit.safetensors").exists()


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_users_own_model(family, tmp_path) -> None:
    """Any words are a concept there; nothing is judged, pictures are drawn."""
    folder = tiny.folder(family, tmp_path / "base")
    result = run(
        "erase",
        "van gogh",
        "--kind",
        "style",
        "--retain",
        "monet",
        "--model",
        folder,
        "--limit",
        1,
        "--out",
        tmp_path / "o",
    )
    assert result.exit_code == 0, result.stderr
    (trial,) = json.loads((tmp_path / "o" / "report.json").read_text())["trials"]
    assert (trial["edit"]["anchors"], trial["edit"]["retain"], trial["groups"]) == (["art"], ["monet"], {})
    assert run("apply", tmp_path / "o/edit.safetensors", "--model", folder, "--out", tmp_path / "m").exit_code == 0


def untimed(path: Path) -> object:
    """A report without its timings."""
    return json.loads(path.read_text(), object_hook=lambda table: {k: v for k, v in table.items() if k != "seconds"})


@pytest.mark.slow
def test_interrupted_run_goes_on(tmp_path, monkeypatch) -> None:
    """The pictures that were finished are not drawn again, and the report is the same but for timings."""
    from unconcept.evaluation.tasks import edited_model as drawing

    real, drawn = drawing.draw_prompts, []

    def counting(model, prompts, *rest):
        if len(drawn) == 3:
            raise KeyboardInterrupt
        drawn.append(len(prompts))
        return real(model, prompts, *rest)

    words = ("erase", "pizza", "--limit", 1, "--batch-size", 2, "--quiet", "--out")
    monkeypatch.setenv("UNCONCEPT_STORE", str(tmp_path / "store"))
    monkeypatch.setattr(drawing, "draw_prompts", counting)
    result = run(*words, tmp_path / "a/o")
    assert result.exit_code == 130
    assert [path.name for path in (tmp_path / "a").iterdir()] == [".o.part"]
    monkeypatch.setattr(drawing, "draw_prompts", lambda *given: drawn.append(len(given[1])) or real(*given))
    assert run(*words, tmp_path / "a/o").exit_code == 0
    total = sum(drawn)
    assert run(*words, tmp_path / "a/again").exit_code == 0
    assert sum(drawn) == total, "everything was in the store"
    monkeypatch.setenv("UNCONCEPT_STORE", str(tmp_path / "other"))
    assert run(*words, tmp_path / "a/p").exit_code == 0
    assert sum(drawn) == 2 * total
    assert untimed(tmp_path / "a/o/report.json") == untimed(tmp_path / "a/p/report.json")


def test_no_command_is_help() -> None:
    result = run()
    assert result.exit_code == 2
    assert "erase" in result.output


def test_bad_files_are_refused(tmp_path, dog) -> None:
    """A pickle, a folder that is no model, a cut edit, an edit for another base, a recipe with an unknown key."""
    (tmp_path / "m.ckpt").write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "cut.safetensors").write_bytes((dog / "edit.safetensors").read_bytes()[:2000])
    (tmp_path / "r.toml").write_text('method = "uce"\nsource = "x"\nlambda = 1\n')
    other = tiny.folder("sd1", tmp_path / "other")
    nan = shutil.copytree(other, tmp_path / "nan")
    file = nan / "unet/diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    weights[next(name for name in weights if "attn2.to_k" in name)][0] = float("nan")
    save_file(weights, file)
    for words, said, code in (
        (("erase", "a", "--model", tmp_path / "m.ckpt"), "can run code", 2),
        (("erase", "a", "--model", tmp_path / "empty"), "not a diffusers folder", 2),
        (("apply", tmp_path / "cut.safetensors"), "damaged", 2),
        (("apply", dog / "edit.safetensors", "--model", other), "for another family", 2),
        (("erase", "dog face", "--recipe", tmp_path / "r.toml"), "'lambda'", 2),
        (("erase", "a", "--model", nan, "--no-report"), "NaN", 2),
    ):
        result = run(*words, "--out", tmp_path / "o")
        assert (result.exit_code, len(result.stderr.strip().splitlines())) == (code, 1), result.output
        assert said in result.stderr
        assert not (tmp_path / "o").exists()


def test_output_folder_that_exists(tmp_path, dog) -> None:
    result = run("erase", "dog face", "--out", dog)
    assert result.exit_code == 2
    assert "--overwrite" in result.stderr
    assert (dog / "report.html").exists()


def test_support_matrix_is_the_registrys() -> None:
    rows = {row["name"]: row for row in json.loads(run("methods", "--json").stdout)}
    assert rows["uce"]["refused"] == {}
    assert "Defaults from the authors' present `esd_sd.py`" in rows["esd"]["summary"]
    assert set(rows["a-star"]["refused"]) == {*FAMILIES} - {*rows["a-star"]["families"]} >= {"sd3", "flux"}
    assert "joint attention" in rows["a-star"]["refused"]["flux"]
    table = run("methods").stdout
    proven = rows["uce"]["proven"]
    assert (proven["sd1"], proven["flux"]) == ("drawn on moji", "drawn on moji-flow")
    assert rows["doco"]["proven"]["flux"] == "untuned on moji-flow"  # There is no recipe.
    assert rows["negative-prompt"]["proven"]["sd1"] == "untuned on moji"  # There is one, which says so.
    assert {proven[family] for family in FAMILIES if family not in ("sd1", "flux")} == {"algebra tested only"}
    assert "drawn" in table
    assert "algebra" in table
    assert "joint attention" in table
