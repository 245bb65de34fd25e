"""Edits that run beside the model, as a user types them: made, drawn with, evaluated, attacked; what a weight cannot
hold is refused.
"""

import json

import pytest
from safetensors.torch import load_file

from tests import tiny
from tests.cli.test_cli import run
from tests.methods.quick import QUICK

pytestmark = pytest.mark.usefixtures("few_steps")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny.folder("sd1", tmp_path_factory.mktemp("base") / "sd1")


def made(name, base, out, *more):
    words = [word for key, value in QUICK[name].items() for word in ("--set", f"{key}={value}")]
    result = run("erase", "red fox", "--retain", "dog", "--method", name, *words, "--model", base, "--out", out, *more)
    assert result.exit_code == 0, result.stderr
    return out / "edit.safetensors"


@pytest.fixture(scope="module")
def edits(base, tmp_path_factory):
    """Made once without a report."""
    place = tmp_path_factory.mktemp("edits")
    return {name: made(name, base, place / name, "--no-report") for name in ("spm", "receler")}


@pytest.mark.parametrize(("name", "kind"), [("spm", "gated"), ("receler", "adapter")])
def test_the_main_job_and_what_follows(name, kind, base, tmp_path) -> None:
    edit = made(name, base, tmp_path / "o", "--limit", 1)
    (trial,) = json.loads((tmp_path / "o/report.json").read_text())["trials"]
    assert trial["edit"]["report"]["relative_norm"] > 0
    assert trial["edit"]["report"]["steps"] == QUICK[name]["iterations"]
    assert "acts while sampling and changes no weight" in (tmp_path / "o/README.md").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"o"}  # no state of the training is left
    words = ("sample", "a red fox", "--model", base, "--steps", 2, "--out")
    for out, more in (("a", ()), ("b", ("--edit", edit)), ("c", ("--edit", edit, "--strength", 0))):
        assert run(*words, tmp_path / out, *more).exit_code == 0
    plain, edited, off = ((tmp_path / out / "000.png").read_bytes() for out in "abc")
    assert plain == off != edited


def test_several_edits_draw_at_once(base, edits, tmp_path) -> None:
    """Whatever their kinds, in any order; one alone draws something else."""
    edits = list(edits.values())
    words = ("sample", "a red fox", "--model", base, "--steps", 2, "--out")
    for out, given in (("a", edits), ("b", edits[::-1]), ("c", edits[:1])):
        assert run(*words, tmp_path / out, *(word for edit in given for word in ("--edit", edit))).exit_code == 0
    both, turned, one = ((tmp_path / out / "000.png").read_bytes() for out in "abc")
    assert both == turned != one


@pytest.mark.parametrize(("name", "told"), [("spm", "gating is lost"), ("receler", "networks of their own")])
def test_no_weight_can_hold_them(name, told, base, edits, tmp_path) -> None:
    edit = edits[name]
    for words in (("apply", edit), ("export", edit, "--to", "peft"), ("export", edit, "--to", "diffusers")):
        result = run(*words, "--model", base, "--out", tmp_path / "x")
        assert (result.exit_code, result.stdout) == (2, "")
        assert told in result.stderr
        assert len(result.stderr.splitlines()) == 1
    result = run("export", edit, "--to", "kohya", "--model", base, "--out", tmp_path / "x.safetensors")
    assert result.exit_code == 2
    assert told in result.stderr
    assert not list(tmp_path.iterdir())


def test_static_is_written_where_it_is_asked_for(base, edits, tmp_path) -> None:
    edit = edits["spm"]
    result = run("apply", edit, "--static", "--model", base, "--out", tmp_path / "m")
    assert result.exit_code == 0, result.stderr
    assert "weights changed" in result.stdout
    before, after = (
        load_file(folder / "unet/diffusion_pytorch_model.safetensors") for folder in (base, tmp_path / "m")
    )
    changed = {name for name, tensor in before.items() if not tensor.equal(after[name])}
    assert changed
    assert all(".attentions." in name for name in changed)
    assert (
        run("export", edit, "--static", "--to", "kohya", "--model", base, "--out", tmp_path / "l.safetensors").exit_code
        == 0
    )
    result = run(
        "apply",
        edits["receler"],
        "--static",
        "--model",
        base,
        "--out",
        tmp_path / "n",
    )
    assert result.exit_code == 2
    assert "networks of their own" in result.stderr


@pytest.mark.parametrize("name", ["spm", "receler"])
def test_no_steps_fail_and_keep_what_was_made(name, base, tmp_path) -> None:
    result = run(
        "erase",
        "fox",
        "--method",
        name,
        "--set",
        "iterations=0",
        "--model",
        base,
        "--no-report",
        "--out",
        tmp_path / "o",
    )
    assert result.exit_code == 1
    assert "no effect: the modules that the edit adds beside the model do nothing" in result.stderr
    assert (tmp_path / "o/edit.safetensors").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["spm", "receler"])
def test_on_moji_they_are_evaluated_and_attacked(name, tmp_path) -> None:
    words = [word for key, value in QUICK[name].items() for word in ("--set", f"{key}={value}")]
    result = run("erase", "guitar", "--method", name, *words, "--no-report", "--quiet", "--out", tmp_path / "o")
    assert result.exit_code == 0, result.stderr
    asked = ("guitar", "--edit", tmp_path / "o/edit.safetensors", "--limit", 1, "--quiet", "--out")
    assert run("evaluate", *asked, tmp_path / "e", "--suite", "smoke").exit_code == 0
    result = run("attack", "wordings", *asked, tmp_path / "a", "--json")
    assert result.exit_code == 0, result.stderr
    (row,) = json.loads(result.stdout)["trials"][0]["attacks"]
    assert row["attack"] == "wordings"
