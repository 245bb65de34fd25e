"""`unconcept export` and `import` as a user types them: what they print, write, refuse."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests import tiny
from tests.cli.test_cli import run
from unconcept.models import find_model
from unconcept.worlds.registry import embedded_world


@pytest.fixture(scope="module")
def edit(tmp_path_factory) -> Path:
    """An edit of moji, without a picture."""
    out = tmp_path_factory.mktemp("edit") / "dog"
    result = run("erase", "dog face", "--no-report", "--quiet", "--out", out)
    assert result.exit_code == 0, result.stderr
    return out / "edit.safetensors"


@pytest.mark.parametrize(
    ("to", "name"),
    [
        ("diffusers", "m"),
        ("peft", "p"),
        ("single-file", "m.safetensors"),
        ("kohya", "l.safetensors"),
        ("comfyui", "c.safetensors"),
    ],
)
def test_export_writes_and_says_what(to, name, edit, tmp_path) -> None:
    result = run("export", edit, "--to", to, "--dtype", "bfloat16", "--out", tmp_path / name)
    assert result.exit_code == 0, result.stderr
    assert f"{to}: " in result.stdout
    assert "weights changed" in result.stdout
    assert ("relative error" in result.stdout) == (to in ("kohya", "peft"))
    assert [path.name for path in tmp_path.iterdir()] == [name]
    file = {"diffusers": "m/unet/diffusion_pytorch_model.safetensors", "peft": "p/adapter_model.safetensors"}.get(
        to, name
    )
    assert torch.bfloat16 in {t.dtype for t in load_file(tmp_path / file).values()}
    with safe_open(tmp_path / file, "pt") as opened:
        told = opened.metadata()
    base = embedded_world("moji").dated_name
    assert (told["unconcept.base"], told["unconcept.licence"], told["unconcept.export"]) == (base, "apache-2.0", to)


def test_dtype_is_the_models_own_unless_told(edit, tmp_path) -> None:
    assert run("export", edit, "--to", "comfyui", "--out", tmp_path / "c.safetensors").exit_code == 0
    own = load_file(find_model("moji") / "unet/diffusion_pytorch_model.safetensors")["conv_in.weight"].dtype
    assert {t.dtype for t in load_file(tmp_path / "c.safetensors").values()} == {own}


def test_no_strength_is_the_same_model(edit, tmp_path) -> None:
    assert run("export", edit, "--to", "diffusers", "--strength", 0, "--out", tmp_path / "m").exit_code == 0
    file = "unet/diffusion_pytorch_model.safetensors"
    assert (tmp_path / "m" / file).read_bytes() == (find_model("moji") / file).read_bytes()


def test_a_lora_is_imported_and_used_as_an_edit(edit, tmp_path) -> None:
    """There and back: the pictures of the imported edit are the edit's but for the rounding."""
    assert (
        run("export", edit, "--to", "kohya", "--dtype", "float32", "--out", tmp_path / "l.safetensors").exit_code == 0
    )
    result = run(
        "import", tmp_path / "l.safetensors", "dog face", "--method", "esd", "--out", tmp_path / "e.safetensors"
    )
    assert result.exit_code == 0, result.stderr
    with safe_open(tmp_path / "e.safetensors", "pt") as opened:
        origin = json.loads(opened.metadata()["origin"])
    with safe_open(edit, "pt") as opened:
        first = json.loads(opened.metadata()["origin"])
    assert (origin["method"], origin["targets"], origin["base_hash"]) == ("esd", first["targets"], first["base_hash"])
    assert origin["report"]["residual"] == pytest.approx(first["report"]["residual"], abs=1e-3)
    for name, used in (("a", edit), ("b", tmp_path / "e.safetensors")):
        assert (
            run("sample", "a dog face", "--steps", 2, "--edit", used, "--quiet", "--out", tmp_path / name).exit_code
            == 0
        )
    a, b = (np.asarray(Image.open(tmp_path / name / "000.png")).astype(int) for name in "ab")
    assert abs(a - b).max() <= 2


BAD = {
    "unknown target": (("export", "EDIT", "--to", "kohia"), "o.safetensors", "did you mean 'kohya'"),
    "a folder for a file": (("export", "EDIT", "--to", "kohya"), "o", "must end in .safetensors"),
    "a file for a folder": (("export", "EDIT", "--to", "peft"), "o.safetensors", "writes a folder"),
    "no edit": (("export", "nowhere.safetensors", "--to", "kohya"), "o.safetensors", "missing, cut short or damaged"),
    "another base": (("export", "EDIT", "--to", "kohya", "--model", "OTHER"), "o.safetensors", "for another family"),
    "dtype": (("export", "EDIT", "--to", "kohya", "--dtype", "int3"), "o.safetensors", "dtype 'int3'"),
    "rank": (("export", "EDIT", "--to", "kohya", "--rank", 0), "o.safetensors", "rank 0"),
    "rank of a checkpoint": (
        ("export", "EDIT", "--to", "diffusers", "--rank", 2),
        "o",
        "only --to comfyui-lora, kohya, peft have one",
    ),
    "no lora": (("import", "nowhere.safetensors", "dog face"), "o.safetensors", "the file or folder is missing"),
    "an edit is no lora": (("import", "EDIT", "dog face"), "o.safetensors", "it needs no import"),
    "a lora for another family": (("import", "LORA", "dog face"), "o.safetensors", "for another family"),
    "unknown concept": (("import", "LORA", "dog fase"), "o.safetensors", "did you mean 'dog face'"),
    "unknown kind": (("import", "LORA", "dog", "--kind", "thing", "--model", "OTHER"), "o.safetensors", "kind"),
    "a pickle": (("import", "PICKLE", "dog face"), "o.safetensors", "can run code"),
}


@pytest.fixture(scope="module")
def given(edit, tmp_path_factory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("given")
    save_file(
        {
            "lora_unet_down_blocks_9_to_k.lora_up.weight": torch.ones(2, 1),
            "lora_unet_down_blocks_9_to_k.lora_down.weight": torch.ones(1, 2),
        },
        place / "l.safetensors",
    )
    (place / "l.pt").write_bytes(b"x")
    return {
        "EDIT": edit,
        "OTHER": tiny.folder("sd1", place / "other"),
        "LORA": place / "l.safetensors",
        "PICKLE": place / "l.pt",
    }


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(case, given, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    words, out, said = BAD[case]
    result = run(*(given.get(word, word) for word in words), "--out", tmp_path / out)
    assert result.exit_code == 2, result.output
    assert said in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_exists_is_kept(edit, tmp_path) -> None:
    (tmp_path / "l.safetensors").write_bytes(b"mine")
    words = ("export", edit, "--to", "kohya", "--out", tmp_path / "l.safetensors")
    result = run(*words)
    assert (result.exit_code, "--overwrite" in result.stderr) == (2, True)
    assert (tmp_path / "l.safetensors").read_bytes() == b"mine"
    assert run(*words, "--overwrite").exit_code == 0
    assert len(load_file(tmp_path / "l.safetensors")) > 1
