"""`protect` on a tiny model: copies within the budget, figures, a page, one line for bad input, on after a kill."""

import json
import os

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import unconcept
from tests import tiny
from tests.cli.test_cli import run
from unconcept.core.errors import UnconceptError
from unconcept.evaluation.protection.preparation import preparation_path
from unconcept.evaluation.tasks.edited_model import EditedModel
from unconcept.jobs.protection import protect as job
from unconcept.jobs.protection.options import ProtectOptions
from unconcept.jobs.protection.protect import open_budget
from unconcept.protection import protections
from unconcept.worlds.registry import JUDGE_WEIGHTS

QUICK = ("--set", "iterations=4", "--set", "steps=2", "--set", "rounds=1", "--set", "samples=2", "--set", "lr=0.1")


def save(path, seed: int, size=(16, 16), **more) -> None:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    coarse.resize(size, Image.Resampling.BICUBIC).save(path, **more)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model, two pictures in a folder, one of which holds EXIF, and what is no picture of the model's."""
    root = tmp_path_factory.mktemp("protected")
    tiny.folder("sd1", root / "m")
    for name in ("faces", "empty", "mixed"):
        (root / name).mkdir()
    exif = Image.Exif()
    exif[0x010E] = "Ada at home"
    save(root / "faces/ada.jpg", 1, quality=95, exif=exif)
    save(root / "faces/bob.png", 2)
    save(root / "wide.png", 3, (20, 16))
    save(root / "ada.png", 4)
    (root / "mixed/notes.txt").write_text("mine")
    (root / "broken.png").write_bytes(b"no picture")
    return root


def pixels(path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(float) / 255


def test_copies_keep_names_and_the_budget_and_drop_exif(place, tmp_path) -> None:
    before = {path.name: path.read_bytes() for path in (place / "faces").iterdir()}
    words = ("--model", place / "m", *QUICK, "--budget", 0.03, "--out", tmp_path / "o")
    result = run("protect", place / "faces", "--set", "base=picture", *words)
    assert result.exit_code == 0, result.stderr
    assert "EXIF and other data beside the pixels were dropped: 1 of 2 had some" in result.output
    assert {path.name: path.read_bytes() for path in (place / "faces").iterdir()} == before
    assert {path.name for path in (tmp_path / "o").iterdir()} == {
        "ada.png", "bob.png", "protection.json", "report.html", "run.json",
    }  # fmt: skip
    data = json.loads((tmp_path / "o/protection.json").read_text())
    assert [one["name"] for one in data["pictures"]] == ["ada.png", "bob.png"]
    for name, one in zip(("ada.jpg", "bob.png"), data["pictures"], strict=True):
        error = np.sqrt(np.square(pixels(tmp_path / "o" / one["name"]) - pixels(place / "faces" / name)).mean())
        assert 0 < one["distance"] <= 0.03
        assert one["distance"] == pytest.approx(error, rel=1e-3)
        assert one["psnr"] == pytest.approx(-20 * np.log10(error), abs=0.01)
    assert not Image.open(tmp_path / "o/ada.png").getexif()
    page = (tmp_path / "o/report.html").read_text()
    for said in (
        "delays learning, it does not prevent it",
        "Later attacks work on pictures that are already published",
    ):
        assert said in page
    assert page.count("<img ") == 6
    assert str(place) not in page


BAD = [
    (("faces",), ("--budget", 0), "--budget 0.0: give a distance above 0"),
    (("faces",), ("--budget", "nan"), "--budget nan: give a distance above 0"),
    (("faces",), ("--psnr", -1), "--psnr -1.0: give 0 (no limit)"),
    (("faces",), ("--distance", "moji-judge"), "--distance moji-judge: it measures no distance of two pictures"),
    (("faces",), ("--distance", "lpips"), "--distance lpips: give lpips=FILE"),
    (("faces",), ("--distance", "pixels=x"), "--distance pixels=x: it takes no path"),
    (("faces",), ("--distance", "pixel"), "no scorer 'pixel'; did you mean 'pixels'"),
    (("faces",), ("--method", "trajectory"), "no protection 'trajectory'; did you mean 'trajectory-shift'"),
    (("faces",), ("--set", "iteration=3"), "did you mean 'iterations'"),
    (("faces",), ("--set", "iterations=0"), "iterations must be > 0, got 0"),
    (("faces",), ("--recipe", "moji-uce"), "is for the method uce, not for the protection trajectory-shift"),
    (("faces",), ("--text", "a" * 60), "tokens long"),
    (("empty",), (), "the folder is empty; give at least one picture"),
    (("mixed",), (), "notes.txt is not a picture"),
    (("absent.png",), (), "absent.png"),
    (("broken.png",), (), "cannot identify image file"),
    (("wide.png",), (), "wide.png has 20x16 pixels, but"),
    (("faces", "ada.png"), (), "would both be written as ada.png: rename one of them"),
    (("faces",), ("--out", "faces", "--overwrite"), "ada.jpg, which it would replace: choose another folder"),
    (("faces",), ("--out", "mixed"), "mixed exists: choose another path"),
]


@pytest.mark.parametrize(("pictures", "words", "said"), BAD)
def test_bad_input_is_one_line(place, tmp_path, monkeypatch, pictures, words, said) -> None:
    monkeypatch.chdir(place)
    listing = sorted(str(path) for path in place.rglob("*"))
    out = () if "--out" in words else ("--out", tmp_path / "o")
    result = run("protect", *pictures, "--model", "m", *QUICK, *words, *out)
    assert result.exit_code == 2, result.output
    assert said in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "o").exists()
    assert sorted(str(path) for path in place.rglob("*")) == listing


def test_a_pipe_is_no_picture(place, tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    result = run("protect", tmp_path / "pipe.png", "--model", place / "m", "--out", tmp_path / "o")
    assert result.exit_code == 2
    assert "is a pipe, a socket or a device" in result.stderr


def test_a_stopped_run_goes_on_with_the_same_copies(place, tmp_path, monkeypatch) -> None:
    quick = {"iterations": 2, "steps": 1, "rounds": 1, "samples": 1, "lr": 0.1, "base": "picture"}

    def options(out, **more):
        return ProtectOptions(place / "faces", model=str(place / "m"), settings=quick, out=tmp_path / out, **more)

    whole = job.protect(options("whole"))
    protect_picture, done = job.protect_picture, []

    def stopping(given, case):
        if done:
            raise KeyboardInterrupt
        done.append(case)
        return protect_picture(given, case)

    monkeypatch.setattr(job, "protect_picture", stopping)
    with pytest.raises(KeyboardInterrupt):
        job.protect(options("stopped"))
    assert not (tmp_path / "stopped").exists()
    counted = []
    monkeypatch.setattr(job, "protect_picture", lambda *given: counted.append(1) or protect_picture(*given))
    again = job.protect(options("stopped"))
    assert len(counted) == 1
    assert all(torch.equal(a.after, b.after) for a, b in zip(whole.pictures, again.pictures, strict=True))


@pytest.mark.parametrize("name", ["jpeg", "blur"])
def test_controls_are_commands_too_and_python_calls_them(place, tmp_path, name) -> None:
    done = unconcept.protect(place / "faces", method=name, model=str(place / "m"), out=tmp_path / "o")
    assert all(0 < one.distance <= 0.05 for one in done.pictures)
    with pytest.raises(UnconceptError, match="exists"):
        unconcept.protect(place / "faces", method=name, model=str(place / "m"), out=tmp_path / "o")


def test_a_network_is_kept_in_the_store_for_the_next_pictures(place, tmp_path, monkeypatch) -> None:
    settings = {"shift": "network", "steps": 1, "rounds": 1, "samples": 1, "network_iterations": 2, "network_lr": 0.01,
                "network_pictures": 2, "network_batch": 1, "network_width": 4}  # fmt: skip

    def made(pictures, out):
        own = ProtectOptions(pictures, model=str(place / "m"), settings=settings, out=out, store=tmp_path / "store")
        return job.protect(own)

    made(place / "faces/bob.png", tmp_path / "a")
    (kept,) = (tmp_path / "store/protections").iterdir()
    kind = protections["trajectory-shift"].settings
    monkeypatch.setattr(kind, "prepare", lambda *given: pytest.fail("it was trained again"))
    made(place / "faces/ada.jpg", tmp_path / "b")
    kept.write_bytes(b"damaged")
    with pytest.raises(UnconceptError, match="delete it, and it is trained anew"):
        made(place / "faces/ada.jpg", tmp_path / "c")


def test_a_network_is_kept_by_the_weights_that_measured_its_distance(tmp_path) -> None:
    """Two files of one architecture have one name."""
    given, subject = protections["trajectory-shift"].settings(shift="network"), EditedModel("moji")
    with safe_open(JUDGE_WEIGHTS, "pt") as file:
        about = file.metadata()
    changed = {name: 2 * tensor for name, tensor in load_file(JUDGE_WEIGHTS).items()}
    save_file(changed, tmp_path / "other.safetensors", about)
    files = (JUDGE_WEIGHTS, tmp_path / "other.safetensors")
    first, other = (open_budget(f"moji-judge-features={file}", 0.1, 0.0) for file in files)
    assert first.name == other.name
    paths = [preparation_path(given, subject, budget, "a photo", 0, tmp_path) for budget in (first, other, first)]
    assert paths[0] == paths[2] != paths[1]


def test_protections_are_listed() -> None:
    told = json.loads(run("protections", "--json").stdout)
    assert [(one["name"], one["role"]) for one in told] == [
        ("trajectory-shift", "protection"), ("blur", "control"), ("jpeg", "control"), ("pixel-pgd", "control"),
    ]  # fmt: skip


PROVE = ("--prove", "--learner", "lora", "--learning-steps", 1, "--copies", 2)


def test_a_proof_is_in_the_figures_and_on_the_page(place, tmp_path) -> None:
    features = f"clip-embedding={tiny.clip_folder(tmp_path / 'clip')}"
    words = ("--model", place / "m", "--method", "blur", *PROVE, "--features", features, "--others", place / "ada.png")
    result = run("protect", place / "faces", *words, "--out", tmp_path / "o")
    assert result.exit_code == 0, result.stderr
    proof = json.loads((tmp_path / "o/protection.json").read_text())["proof"]
    assert [(row["learner"], row["pictures"], row["recognised"]["n"]) for row in proof["rows"]] == [
        ("none: the pictures themselves", "protected", 2), ("none: not learned", "none", 2),
        ("lora", "clean", 2), ("lora", "protected", 2),
    ]  # fmt: skip
    assert "1 pictures of other things" in proof["meaning"]
    assert "What learners make of them" in (tmp_path / "o/report.html").read_text()
    assert len(list((tmp_path / "o/copies").rglob("*.png"))) == 4
    said = "then learn by lora 2 times, 1 steps each; draw 4 copies"
    assert said in result.stderr, "before it starts"
    planned = run("protect", place / "faces", *words, "--out", tmp_path / "p", "--dry-run")
    assert said.removeprefix("then ") in planned.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--adaptive",), "--adaptive without --prove: add --prove"),
        (("--learner", "lora", "--others", "."), "--learner and --others without --prove: add --prove"),
        (PROVE, "needs features to recognise copies by: give --features clip-embedding=FOLDER"),
        ((*PROVE, "--features", "clip-embedding"), "give clip-embedding=FOLDER"),
        ((*PROVE, "--features", "pixels"), "it gives no features of pictures"),
        ((*PROVE, "--learner", "dreambooth"), "no learner 'dreambooth'"),
        ((*PROVE, "--learning-steps", 3), "steps must be a power of two"),
        ((*PROVE, "--kind", "animal"), "kind 'animal': allowed are"),
        ((*PROVE, "--word", " "), "is empty: give at least one word"),
        ((*PROVE, "--other-base", "nowhere"), "nowhere"),
    ],
)
def test_a_proof_that_cannot_be_made_is_one_line(place, tmp_path, words, said) -> None:
    result = run(
        "protect", place / "faces", "--model", place / "m", "--method", "blur", *words, "--out", tmp_path / "o"
    )
    assert result.exit_code == 2, result.output
    assert said in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())
