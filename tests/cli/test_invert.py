"""`sample --from`, `--sampler` and `invert` on tiny models: pictures in, pictures out, and one line for bad input."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from tests import tiny
from tests.cli.test_cli import run


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A model of each kind, and a picture of their size."""
    root = tmp_path_factory.mktemp("models")
    for family in ("sd1", "sd3"):
        tiny.folder(family, root / family)
    pixels = torch.rand(16, 16, 3, generator=torch.Generator().manual_seed(0)).mul(255).byte().numpy()
    Image.fromarray(pixels).save(root / "picture.png")
    Image.fromarray(pixels[:, :12]).save(root / "narrow.png")
    return root


def pixels(path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


@pytest.mark.parametrize(("family", "by"), [("sd1", "edit-friendly"), ("sd3", "flow")])
def test_a_picture_is_inverted_and_drawn_again(folders, tmp_path, family, by) -> None:
    common = ("--model", folders / family, "--steps", 6)
    result = run("invert", folders / "picture.png", "--by", by, *common, "--prompt", "a dog", "--out", tmp_path / "i")
    assert result.exit_code == 0, result.stderr
    assert "drawn again with an error of" in result.output
    inverted = tmp_path / "i" / "inverted.safetensors"
    words = ("--from", inverted, *common, "--guidance-scale", 1)
    for prompt, is_same in (("a dog", True), ("moon", False)):
        out = tmp_path / prompt
        assert run("sample", prompt, *words, "--out", out).exit_code == 0
        far = np.abs(pixels(out / "000.png") - pixels(tmp_path / "i" / "redrawn.png")).max()
        assert (far <= 1) == is_same
    wrong = run(
        "sample", "a dog", "--from", inverted, "--model", folders / family, "--steps", 5, "--out", tmp_path / "o"
    )
    assert wrong.exit_code == 2
    assert "the picture was inverted in 6, give --steps 6" in wrong.stderr


@pytest.mark.slow
def test_a_picture_is_drawn_over(folders, tmp_path) -> None:
    """Two prompts have their own noise; a lower level stays nearer to the picture than a higher one."""
    common = ("--model", folders / "sd1", "--steps", 20, "--sampler", "ddim")
    outs = {}
    for level in (0.05, 0.5):
        outs[level] = tmp_path / str(level)
        words = ("--from", folders / "picture.png", "--level", level, "--guidance-scale", 1)
        assert run("sample", "a dog", "a dog", *words, *common, "--out", outs[level]).exit_code == 0
    assert np.abs(pixels(outs[0.5] / "000.png") - pixels(outs[0.5] / "001.png")).max() > 1
    assert run("sample", "a dog", *common, "--out", tmp_path / "plain").exit_code == 0
    assert np.abs(pixels(outs[0.05] / "000.png") - pixels(tmp_path / "plain" / "000.png")).max() > 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--from", "picture.png", "--level", "0"), "start level 0.0: give 0.25 (one of 4 steps) to 1"),
        (("--from", "picture.png", "--level", "1.5"), "start level 1.5: give 0.25"),
        (("--from", "narrow.png"), "narrow.png has 12x16 pixels, but"),
        (("--from", "absent.png"), "absent.png"),
        (("--from", "sd1/unet/diffusion_pytorch_model.safetensors"), "is no inverted picture: give a picture"),
        (("--level", "0.5"), "--level with --from PICTURE"),
        (("--sampler", "amo"), "sampler 'amo' is not defined for sd1 models: leave it out, or give ddim"),
        (("--sampler", "dmp"), "no sampler 'dmp'; did you mean 'dpm'"),
    ],
)
def test_bad_input_is_one_line(folders, tmp_path, monkeypatch, words, said) -> None:
    monkeypatch.chdir(folders)
    result = run("sample", "a dog", "--model", folders / "sd1", "--steps", 4, *words, "--out", tmp_path / "o")
    assert result.exit_code == 2, result.output
    assert said in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "o").exists()


def test_a_pipe_is_no_picture(folders, tmp_path) -> None:
    for name in ("pipe.png", "pipe.safetensors"):
        os.mkfifo(tmp_path / name)
        words = ("--from", tmp_path / name, "--model", folders / "sd1", "--steps", 4, "--out", tmp_path / "o")
        result = run("sample", "a dog", *words)
        assert result.exit_code == 2
        assert "is a pipe, a socket or a device: give a regular file" in result.stderr


@pytest.mark.parametrize(
    ("family", "words", "said"),
    [
        ("sd1", ("--by", "flow"), "inversion 'flow' is not for sd1 models: give ddim or edit-friendly"),
        ("sd3", ("--by", "ddim"), "inversion 'ddim' is not for sd3 models: give flow"),
        ("sd1", ("--prompt", "a" * 60), "tokens long"),
    ],
)
def test_an_inversion_that_is_not_possible(folders, tmp_path, family, words, said) -> None:
    asked = ("--model", folders / family, "--steps", 2, *words, "--out", tmp_path / "o")
    result = run("invert", folders / "picture.png", *asked)
    assert result.exit_code == 2, result.output
    assert said in result.stderr


@pytest.mark.slow
def test_a_flow_overshoots(folders, tmp_path) -> None:
    found = {}
    for sampler in ("euler", "overshoot", "amo"):
        out = tmp_path / sampler
        words = ("--sampler", sampler, "--model", folders / "sd3", "--steps", 4, "--out", out)
        assert run("sample", 'a sign "dog"', *words).exit_code == 0
        found[sampler] = pixels(out / "000.png")
    assert np.abs(found["euler"] - found["overshoot"]).max() > 1
    assert np.abs(found["overshoot"] - found["amo"]).max() > 1
