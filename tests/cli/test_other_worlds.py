"""Records of the embedded model's first version, and models that a record or a cut file limits, as a user meets them:
one line, exit code 2, nothing left behind.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests import tiny
from tests.cli.test_bad_models import refused
from tests.cli.test_cli import run
from unconcept import UCE, Request, open_model
from unconcept.core.errors import EditError
from unconcept.edits import load_edit, origin_of
from unconcept.ledger import ledger as ledger_module
from unconcept.ledger.ledger import EntryNote, create_ledger
from unconcept.ledger.policy import LedgerPolicy
from unconcept.worlds.registry import DEFAULT_MODEL

GONE = "moji@1 is not in this package, which has moji@2 with other words and weights"


@pytest.fixture(scope="module")
def old_edit(tmp_path_factory) -> Path:
    """An edit whose header says that it was made for the first version."""
    model = open_model(DEFAULT_MODEL, "cpu", "float32")
    edit = UCE().erase(model, Request(("guitar",), ("violin",), ("rocket",)))
    origin = replace(origin_of(edit), base="moji", base_hash="0" * 64)
    path = tmp_path_factory.mktemp("old") / "edit.safetensors"
    replace(edit, origin=origin, maker=None).save(path)
    return path


@pytest.mark.parametrize(
    "words",
    [
        ("apply",),
        ("export", "--to", "kohya"),
        pytest.param(("sample", "a guitar", "--edit"), marks=pytest.mark.slow),
        pytest.param(("evaluate", "guitar", "--edit"), marks=pytest.mark.slow),
    ],
    ids=lambda words: words[0],
)
def test_an_edit_of_the_first_moji(words, old_edit, tmp_path) -> None:
    at = [*words, old_edit] if words[-1] == "--edit" else [words[0], old_edit, *words[1:]]
    refused(tmp_path / "o.safetensors", *at, said=f"if that was the embedded model: {GONE}, so make the edit anew")
    refused(tmp_path / "o.safetensors", *at, "--model", "moji", said=f"made for moji: {GONE}; make it anew")


def test_an_edit_of_the_first_moji_in_python(old_edit) -> None:
    edit, model = load_edit(old_edit), open_model(DEFAULT_MODEL, "cpu", "float32")
    with pytest.raises(EditError, match=f"{GONE}; make it anew"), edit.applied(model):
        pass


def test_a_recipe_of_the_first_moji(tmp_path) -> None:
    recipe = tmp_path / "own.toml"
    recipe.write_text('method = "uce"\nsource = "tried"\nworld = "moji@1"\n', encoding="utf-8")
    refused(tmp_path / "o", "erase", "guitar", "--recipe", recipe, said=f"{GONE}; tune it anew")


def test_a_ledger_of_the_first_moji(tmp_path, monkeypatch) -> None:
    folder, model = tmp_path / "ledger", replace(open_model(DEFAULT_MODEL, "cpu", "float32"), name="moji@1")
    with monkeypatch.context() as first:
        first.setattr(ledger_module, "text_maps_hash", lambda model: "0" * 64)
        create_ledger(folder, model, "uce", {}, LedgerPolicy(), EntryNote())
    kept = sorted(folder.rglob("*"))
    for words, said in (
        (("add", folder, "guitar"), GONE),
        (("materialize", folder, "--out", tmp_path / "o"), GONE),
        (("add", folder, "guitar", "--model", "moji"), f"{GONE}; begin a new ledger and add the requests there"),
    ):
        result = run("ledger", *words)
        assert (result.exit_code, len(result.stderr.strip().splitlines())) == (2, 1), result.output
        assert said in result.stderr
        assert not (tmp_path / "o").exists()
        assert sorted(folder.rglob("*")) == kept


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--sampler", "dpm"), "few steps, and its record allows its own alone: leave it out"),
        (("--guidance-scale", 7.5), "takes no guidance, says its record: give 1"),
        (("--steps", 3), "3 sampler steps: the record of"),
    ],
)
def test_what_a_models_record_forbids(words, said, tmp_path) -> None:
    folder = tiny.folder("sd1", tmp_path / "m")
    record = {"timesteps": {"2": [625, 312]}, "step": "renoise", "guidance": "none"}
    (folder / "few_step.json").write_text(json.dumps(record), encoding="utf-8")
    refused(tmp_path / "o", "sample", "a dog", "--model", folder, *words, "--quiet", said=said)


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder_2"])
def test_weights_that_are_cut_short(part, tmp_path) -> None:
    folder = tiny.folder("flux", tmp_path / "m")
    (file,) = (folder / part).glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-100])
    refused(tmp_path / "o", "sample", "a dog", "--model", folder, "--steps", 1, "--quiet", said="cut short or damaged")


def test_parts_of_an_embedded_model_that_are_cut_short(tmp_path, monkeypatch) -> None:
    from unconcept.worlds import registry

    broken = tmp_path / "worlds"
    shutil.copytree(registry._FOLDER / "moji-flow", broken / "moji-flow")
    shutil.copytree(registry._FOLDER / "moji" / "model", broken / "moji" / "model")
    file = broken / "moji-flow" / "model" / "transformer" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    monkeypatch.setattr(registry, "_FOLDER", broken)
    monkeypatch.setenv("UNCONCEPT_STORE", str(tmp_path / "store"))
    result = run("sample", "a dog", "--model", "moji-flow", "--steps", 1, "--quiet", "--out", tmp_path / "o")
    assert (result.exit_code, len(result.stderr.strip().splitlines())) == (2, 1), result.output
    assert "cut short or damaged" in result.stderr
    assert not (tmp_path / "o").exists()
