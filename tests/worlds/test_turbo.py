"""`moji-turbo` with toy weights in place of those that do not ship yet: opened by its record, in every command."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.cli.test_bad_models import refused
from tests.cli.test_cli import run
from unconcept import UCE, Request, open_model
from unconcept.core.errors import ModelError
from unconcept.core.hashing import hash_tensors
from unconcept.edits import load_edit
from unconcept.evaluation.sampling import spec_for
from unconcept.models.diffusion.few_step import FewStepRecord
from unconcept.worlds import folder, registry
from unconcept.worlds.registry import read_world, worlds

NAME = "moji-turbo"
UNET = "moji/model/unet/diffusion_pytorch_model.safetensors"
CHANGED = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"
RECORD = {"timesteps": {"1": [625], "2": [625, 312], "4": [625, 468, 312, 156]}, "step": "renoise", "guidance": "none"}


def toy_pairs(base: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A change of rank 1 of one matrix."""
    o, d = base[CHANGED].shape
    rng = torch.Generator().manual_seed(0)
    return {f"{CHANGED}.up": torch.randn(o, 1, generator=rng) / 9, f"{CHANGED}.down": torch.randn(1, d, generator=rng)}


@pytest.fixture
def turbo(tmp_path, monkeypatch) -> Path:
    """The package's worlds with toy weights of `moji-turbo`, which is public here."""
    place = tmp_path / "package" / "worlds"
    place.mkdir(parents=True)
    (place / "moji").symlink_to(registry._FOLDER / "moji")
    shutil.copytree(registry._FOLDER / NAME, place / NAME)
    base, part = load_file(place / UNET), place / NAME / "model" / "unet"
    part.mkdir(exist_ok=True)
    save_file(toy_pairs(base), part / "low_rank.safetensors", {"base": hash_tensors(base)})
    (place / NAME / "model" / "few_step.json").write_text(json.dumps({**RECORD, "teacher": "moji"}))
    monkeypatch.setattr(registry, "_FOLDER", place)
    monkeypatch.setitem(worlds._known, NAME, read_world(place / NAME / "world.toml"))
    monkeypatch.setenv("UNCONCEPT_STORE", str(tmp_path / "package" / "store"))
    return place


def test_it_is_public_once_its_weights_are_there() -> None:
    own = read_world(registry._FOLDER / NAME / "world.toml")
    there = (own.shipped_folder / "unet" / "low_rank.safetensors").is_file()
    assert own.is_public == there == (NAME in set(worlds))


def test_it_is_mojis_unet_plus_a_low_rank_change(turbo) -> None:
    base, found = load_file(turbo / UNET), load_file(folder(NAME) / "unet" / "diffusion_pytorch_model.safetensors")
    pairs = toy_pairs(base)
    wanted = base[CHANGED].float() + pairs[f"{CHANGED}.up"] @ pairs[f"{CHANGED}.down"]
    assert torch.equal(found[CHANGED], wanted.half())
    assert not torch.equal(found[CHANGED], base[CHANGED])
    assert all(torch.equal(found[name], base[name]) for name in base if name != CHANGED)
    made = (folder(NAME) / "unet" / "diffusion_pytorch_model.safetensors").stat().st_mtime_ns
    assert (folder(NAME) / "unet" / "diffusion_pytorch_model.safetensors").stat().st_mtime_ns == made


def test_it_opens_by_its_record(turbo) -> None:
    view, spec = open_model(NAME, "cpu", "float32"), spec_for(NAME)
    assert view.few_step == FewStepRecord(
        {1: (625,), 2: (625, 312), 4: (625, 468, 312, 156)}, "renoise", "none", "moji"
    )
    assert (spec.steps, spec.guidance_scale, spec.sampler) == (4, 1.0, None)


def test_what_its_record_forbids(turbo, tmp_path) -> None:
    for words, said in (
        (("--steps", 3), "3 sampler steps: the record of moji-turbo allows 1, 2, 4"),
        (("--guidance-scale", 4), "guidance scale 4: moji-turbo takes no guidance, says its record: give 1"),
        (("--sampler", "dpm"), "few steps, and its record allows its own alone: leave it out"),
    ):
        refused(tmp_path / "o", "sample", "a guitar", "--model", NAME, *words, "--quiet", said=said)


def test_a_negative_prompt_is_refused(turbo, tmp_path) -> None:
    said = "changes classifier-free guidance, which moji-turbo has none of"
    words = ("erase", "guitar", "--method", "negative-prompt", "--model", NAME, "--quiet")
    refused(tmp_path / "o", *words, said=said)


@pytest.mark.slow
def test_commands_take_it(turbo, tmp_path) -> None:
    """Sample, erase with its check, and apply."""
    out = tmp_path / "out"
    words = ("erase", "guitar", "--method", "uce", "--model", NAME, "--limit", 1, "--quiet", "--out", out)
    assert (result := run(*words)).exit_code == 0, result.output
    edit = load_edit(out / "edit.safetensors")
    assert edit.origin.base == f"{NAME}@1"
    drawn = run("sample", "a guitar", "--model", NAME, "--edit", out / "edit.safetensors", "--out", tmp_path / "s")
    assert drawn.exit_code == 0, drawn.output
    baked = run("apply", out / "edit.safetensors", "--model", NAME, "--out", tmp_path / "baked")
    assert baked.exit_code == 0, baked.output
    assert (tmp_path / "baked" / "few_step.json").is_file()


def test_edits_of_moji_are_told_apart(turbo, tmp_path) -> None:
    """Edits of the text maps fit where those are moji's own, and are refused where they were changed."""
    edit = UCE().erase(open_model("moji", "cpu", "float32"), Request(("guitar",), ("violin",), ("rocket",)))
    edit.save(tmp_path / "edit.safetensors")
    words = ("sample", "a guitar", "--model", NAME, "--edit", tmp_path / "edit.safetensors", "--quiet")
    refused(tmp_path / "o", *words, said="the edit was made for moji@2")


@pytest.mark.parametrize("fault", ["base", "own", "other"])
def test_without_its_base_it_is_one_line(turbo, fault, tmp_path) -> None:
    own = turbo / NAME / "model" / "unet" / "low_rank.safetensors"
    if fault == "own":
        own.unlink()
        said = "moji-turbo has no unet/low_rank.safetensors: install the package again"
    elif fault == "base":
        target = (turbo / "moji").resolve()
        (turbo / "moji").unlink()
        shutil.copytree(target, turbo / "moji", ignore=shutil.ignore_patterns("unet", "judge*"))
        said = "moji-turbo stands beside the unet of moji, which"
    else:
        save_file(load_file(own), own, {"base": "0" * 64})
        said = "was made beside other weights than"
    with pytest.raises(ModelError, match=said) as told:
        folder(NAME)
    assert "\n" not in str(told.value)
    refused(tmp_path / "o", "sample", "a guitar", "--model", NAME, "--quiet", said=said)
    assert not list((tmp_path / "package" / "store").rglob("*.safetensors"))
