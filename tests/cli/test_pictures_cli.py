"""Methods that are given pictures or a CLIP, as a user types them: a folder makes an edit, bad input is one line and
leaves nothing.
"""

import json

import pytest
from typer.testing import CliRunner

from tests import tiny
from tests.models.test_picture_files import SIDE, drawn
from unconcept.cli import app
from unconcept.edits import load_edit

RUN = CliRunner()
pytestmark = pytest.mark.usefixtures("few_steps")
SMALL = ("--no-report", "--retain", "cat", "--set", "picture_steps=2", "--set", "templates=['a {}']")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.folder("sd1", tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def pictures(tmp_path):
    (tmp_path / "pictures").mkdir()
    for i in range(3):
        drawn(tmp_path / "pictures" / f"{i}.png", SIDE + 4 * i, SIDE, i)
    return tmp_path / "pictures"


def erase(*words: object):
    return RUN.invoke(app, ["erase", *(str(word) for word in words)])


def test_a_folder_of_pictures_is_unlearned(model, pictures, tmp_path) -> None:
    result = erase(
        "dog",
        "--model",
        model,
        "--method",
        "few-shot",
        *SMALL,
        "--set",
        f"images={pictures}",
        "--set",
        "epochs=1",
        "--out",
        tmp_path / "o",
    )
    assert result.exit_code == 0, result.stderr
    edit = load_edit(tmp_path / "o" / "edit.safetensors")
    assert all(name.startswith("text_encoder.") for name in edit.names)
    assert edit.origin.settings["images"] == pictures.name
    assert edit.origin.report["steps"] == 2
    assert json.loads((tmp_path / "o" / "run.json").read_text())


def other_clip(path):
    """A CLIP whose text tower is no encoder of the tiny models."""
    from safetensors.torch import load_file, save_file

    file = tiny.clip_folder(path) / "model.safetensors"
    save_file(
        {name: 1.5 * t if t.is_floating_point() else t for name, t in load_file(file).items()},
        file,
        metadata={"format": "pt"},
    )
    return path


def test_one_layer_along_what_the_models_own_clip_sees(model, pictures, tmp_path) -> None:
    """The tiny CLIP's text tower is the tiny model's encoder: both are drawn from the same seed."""
    clip = tiny.clip_folder(tmp_path / "clip")
    settings = [f"clip={clip}", f"images={pictures}", "pictures=3"]
    assigned = [word for text in settings for word in ("--set", text)]
    result = erase("dog", "--model", model, "--method", "slug", *SMALL, *assigned, "--out", tmp_path / "o")
    assert result.exit_code == 0, result.stderr
    edit = load_edit(tmp_path / "o" / "edit.safetensors")
    assert len(edit.names) <= 3
    assert edit.origin.report["ratio"] > 0


def test_a_judge_that_still_sees_the_target_is_one_line(model, tmp_path, monkeypatch) -> None:
    """The tiny CLIP calls every picture of noise an umbrella, whatever is done to the text."""
    monkeypatch.setenv("UNCONCEPT_STORE", str(tmp_path / "store"))
    clip = tiny.clip_folder(tmp_path / "clip")
    settings = [word for text in (f"clip={clip}", "pictures=2", "look_pictures=2") for word in ("--set", text)]
    result = erase(
        "umbrella",
        "--model",
        model,
        "--method",
        "slug",
        *SMALL,
        *settings,
        "--method-judge",
        f"clip-score={clip}",
        "--out",
        tmp_path / "o",
    )
    assert result.exit_code == 1, result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("unconcept:")]
    assert len(lines) == 1
    assert (
        "100% of the drawn pictures still show the target at 1 times the step of the rule: name another with --set"
        " layer=" in lines[0]
    )
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("method", "settings", "said"),
    [
        ("few-shot", ("images={pictures}/no",), "the folder does not exist"),
        ("few-shot", ("images={pictures}", "batch_size=4"), "has 3, give at least 4"),
        ("few-shot", ("images={broken}",), "cannot identify image file"),
        ("few-shot", ("images={small}",), "the model draws 16x16"),
        ("few-shot", ("betas=[0.9, 1.5]",), "betas must be"),
        ("advunlearn", ("attack_type=behind",), "attack_type"),
        ("advunlearn", ("dataset_retain=nowhere",), "no caption set 'nowhere'"),
        ("slug", (), "--set clip=FOLDER"),
        (
            "slug",
            ("clip={clip}", "look_pictures=2"),
            "look_pictures asks a judge that does not grade: name one with --method-judge",
        ),
        ("slug", ("clip={pictures}",), "holds no CLIP"),
        ("slug", ("clip={other}",), "does not belong to"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(model, pictures, tmp_path, method, settings, said) -> None:
    broken, small = tmp_path / "broken", tmp_path / "small"
    for folder in (broken, small):
        folder.mkdir()
        drawn(folder / "a.png", SIDE, SIDE)
    drawn(small / "b.png", SIDE - 1, SIDE)
    (broken / "b.png").write_bytes(b"GIF89a?")
    places = {
        "pictures": pictures,
        "broken": broken,
        "small": small,
        "other": other_clip(tmp_path / "clip"),
        "clip": tiny.clip_folder(tmp_path / "own"),
    }
    own = SMALL if method != "advunlearn" else SMALL[:3]
    there = {*tmp_path.iterdir()}
    assigned = [word for text in settings for word in ("--set", text.format(**places))]
    result = erase("dog", "--model", model, "--method", method, *own, *assigned, "--out", tmp_path / "o")
    assert result.exit_code == 2, (result.stdout, result.stderr)
    lines = [line for line in result.stderr.splitlines() if line.startswith("unconcept:")]
    assert len(lines) == 1
    assert said in lines[0]
    assert {*tmp_path.iterdir()} == there


@pytest.mark.parametrize("method", ["few-shot", "advunlearn", "slug"])
def test_families_without_a_meaning_are_refused(method, tmp_path) -> None:
    model = tiny.folder("flux", tmp_path / "flux")
    result = erase("dog", "--model", model, "--method", method, "--no-report", "--out", tmp_path / "o")
    assert result.exit_code == 2
    assert f"{method} is not defined for flux models, only for sd1, sd2, sdxl" in result.stderr
    assert not (tmp_path / "o").exists()
