"""Models and requests that cannot work, as a user meets them: one clear line, exit code 2, nothing left behind, the
model untouched.
"""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import tiny
from tests.cli.test_cli import run

LONG = "a very long prompt about dogs and cats and birds"
# 64 texts in 32 dimensions.
COWS = tuple(word for a in "abcdefgh" for b in "ijklmnop" for word in ("--retain", f"{a}{b} cow"))
ERASE = ("erase", "dog", "--anchor", "cat", "--no-report", "--quiet")
SAMPLE = ("sample", "a dog", "--steps", 1, "--quiet")


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    return tiny.folder("sd1", tmp_path_factory.mktemp("sound") / "m")


def refused(out: Path, *words: object, said: str) -> None:
    kept = sorted(out.parent.iterdir())
    result = run(*words, "--out", out)
    assert result.exit_code == 2, result.output
    assert said in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert sorted(out.parent.iterdir()) == kept


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    ("part", "name", "command"),
    [
        ("unet", "attn2.to_k", ERASE),
        ("text_encoder", "mlp.fc1.weight", ERASE),
        ("unet", "conv_in.weight", SAMPLE),
        ("vae", "conv_out.bias", SAMPLE),
    ],
)
def test_weights_that_are_no_numbers(part, name, command, value, sound, tmp_path) -> None:
    """Of what is only read, the tensors that are read; of a network that is built, all."""
    shutil.copytree(sound, tmp_path / "m")
    (file,) = (tmp_path / "m" / part).glob("*.safetensors")
    tensors = load_file(file)
    tensors[next(key for key in tensors if name in key)].view(-1)[0] = value
    save_file(tensors, file, metadata={"format": "pt"})
    refused(
        tmp_path / "o", *command, "--model", tmp_path / "m", said="contains NaN or infinity; the checkpoint is damaged"
    )


def test_shards_that_the_job_needs(tmp_path) -> None:
    """One that it does not need may be absent."""
    tiny.pipeline("sd1").save_pretrained(tmp_path / "m", max_shard_size="60KB")
    shards = sorted((tmp_path / "m/unet").glob("*.safetensors"))
    needed = {shard for shard in shards if any("attn2.to_" in name for name in load_file(shard))}
    assert needed != set(shards)
    for shard in shards:
        away = shard.rename(shard.with_suffix(".away"))
        if shard in needed:
            refused(tmp_path / "o", *ERASE, "--model", tmp_path / "m", said=f"{shard}: No such file")
        else:
            assert run(*ERASE, "--model", tmp_path / "m", "--out", tmp_path / "o").exit_code == 0
            shutil.rmtree(tmp_path / "o")
        away.rename(shard)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("sample", LONG, "--steps", 1, "--quiet"), "is 41 tokens long, the text encoder holds 24"),
        (("erase", LONG, "--anchor", "cat", "--no-report"), "is 41 tokens long"),
        ((*ERASE, "--retain", LONG), "is 41 tokens long"),
        ((*ERASE, "--method", "trce", "--set", "lamb=0"), "lamb = 0 with 15 texts in 32 dimensions is singular"),
        ((*ERASE, "--method", "speed", "--retain", "dog"), "'dog' is also retained"),
        (
            (*ERASE, "--method", "speed", "--set", "threshold=1e-9", *COWS),
            "not erasable under this retain set: its projector of rank 0",
        ),
        (
            (*ERASE, "--method", "speed", "--set", "threshold=1e-9", "--set", "aug_num=0", *COWS),
            "not erasable under this retain set",
        ),
    ],
)
def test_requests_that_cannot_work(words, said, sound, tmp_path) -> None:
    refused(tmp_path / "o", *words, "--model", sound, said=said)


def test_a_model_index_that_is_no_table(sound, tmp_path) -> None:
    shutil.copytree(sound, tmp_path / "m")
    (tmp_path / "m/model_index.json").write_text("[]")
    refused(tmp_path / "o", *ERASE, "--model", tmp_path / "m", said="is not a JSON object")


def test_edits_and_loras_for_another_model(sound, tmp_path) -> None:
    made = tmp_path / "made"
    assert run(*ERASE, "--model", sound, "--out", made).exit_code == 0
    edit, lora = made / "edit.safetensors", made / "l.safetensors"
    assert run("export", edit, "--to", "kohya", "--model", sound, "--out", lora).exit_code == 0
    tiny.pipeline("sd1", seed=1).save_pretrained(made / "twin")
    for command in (("apply", edit), (*SAMPLE, "--edit", edit)):
        refused(tmp_path / "o", *command, "--model", made / "twin", said="the edit was made for")
    for family, said in (
        ("sd2", "it is for another family"),
        ("sdxl", "it is for another family"),
        ("sd3", "it is for another family"),
        ("flux", "it is for another family"),
    ):
        other = tiny.folder(family, made / family)
        refused(tmp_path / "o.safetensors", "import", lora, "dog", "--model", other, said=said)
        if family != "sd2":  # Its toy's maps are the very ones of SD 1.x's.
            refused(tmp_path / "o", *SAMPLE, "--edit", edit, "--model", other, said="the edit ")
    save_file({key: torch.full_like(t, float("nan")) for key, t in load_file(lora).items()}, lora)
    refused(tmp_path / "o.safetensors", "import", lora, "dog", "--model", sound, said="holds NaN or infinity")
