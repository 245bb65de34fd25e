"""Whole weights and whole checkpoints that were edited elsewhere become the exact difference to their base."""

import shutil
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import tiny
from tests.edits.test_export import base, parameters, text_map  # noqa: F401
from tests.edits.test_imported import K
from tests.models.test_single_file import single
from tests.models.test_storage import rewritten, stored
from unconcept.core.errors import EditError
from unconcept.edits import DenseEdit, LowRankEdit
from unconcept.edits.export.bake import bake
from unconcept.edits.export.export import export_edit
from unconcept.edits.export.foreign import read_foreign_edit


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory):
    return cache(lambda family: tiny.folder(family, tmp_path_factory.mktemp(family) / "base"))


def edited(folder: Path) -> dict[str, torch.Tensor]:
    """The UNet's cross-attention maps with 0.01 added, as a training would round them."""
    weights = load_file(folder / "unet/diffusion_pytorch_model.safetensors")
    return {name: weight + 0.01 for name, weight in weights.items() if "attn2" in name}


@pytest.mark.parametrize("prefix", ["", "unet."])
def test_some_whole_weights(prefix, tiny_folder, tmp_path) -> None:
    """ESD's and UCE's released files, and Concept Ablation's delta: the edited weights by diffusers' names."""
    folder = tiny_folder("sd1")
    own, changed = parameters(folder, "unet"), edited(folder)
    save_file({f"{prefix}{name}": tensor for name, tensor in changed.items()}, tmp_path / "l.safetensors")
    found = read_foreign_edit(tmp_path / "l.safetensors", folder)
    assert isinstance(found.edit, DenseEdit)
    assert set(found.edit.names) == {f"unet.{name}" for name in changed}
    assert found.notes == (f"{len(changed)} of its {len(changed)} weights differ from base",)
    for name, tensor in changed.items():
        full = f"unet.{name}"
        assert torch.equal((own[full] + found.edit.delta(full, own[full])).float(), tensor)


def test_whole_weights_under_original_names_and_of_a_text_encoder(tiny_folder, tmp_path) -> None:
    """As CompVis' scripts name them, and AdvUnlearn's encoder."""
    folder = tiny_folder("sd1")
    own = parameters(folder, "unet", "text_encoder")
    name, key = f"unet.{K}.weight", "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    text = "text_encoder.encoder.layers.0.mlp.fc1.weight"
    for stem, full in ((key, name), ("text_model.encoder.layers.0.mlp.fc1.weight", text)):
        save_file({stem: own[full] * 1.1}, tmp_path / "l.safetensors")
        edit = read_foreign_edit(tmp_path / "l.safetensors", folder).edit
        assert edit.names == (full,)
        assert torch.equal((own[full] + edit.delta(full, own[full])).float(), own[full] * 1.1)


def test_whole_weights_that_do_not_fit(tiny_folder, tmp_path) -> None:
    folder = tiny_folder("sd1")
    changed = edited(folder)
    name = next(iter(changed))
    for tensors, said in (
        ({name: changed[name][:-1].clone()}, "which does not fit the model's"),
        ({**changed, "strange.weight": torch.ones(2)}, "strange.weight is neither a LoRA nor a weight of base"),
        ({**changed, name: torch.full_like(changed[name], float("inf"))}, "NaN or infinity"),
        (load_file(folder / "unet/diffusion_pytorch_model.safetensors"), "are those of base: it is not edited"),
        ({**changed, f"unet.{name}": changed[name] + 1}, "under two names"),
        ({f"{name}.absmax": torch.ones(2), **changed}, "quantised"),
    ):
        save_file(tensors, tmp_path / "l.safetensors")
        with pytest.raises(EditError) as raised:
            read_foreign_edit(tmp_path / "l.safetensors", folder)
        assert said in str(raised.value)
    text_map(folder).save(tmp_path / "own.safetensors")
    with pytest.raises(EditError, match="it needs no import"):
        read_foreign_edit(tmp_path / "own.safetensors", folder)


def same_edit(found: DenseEdit | LowRankEdit, made: LowRankEdit, folder: Path) -> None:
    own = parameters(folder, "unet", "text_encoder")
    assert found.names == made.names
    assert all(
        torch.allclose(found.delta(name, own[name]).float(), made.delta(name, own[name]).float(), atol=1e-6)
        for name in made.names
    )


def test_a_whole_checkpoint(base, tmp_path) -> None:  # noqa: F811
    """The folder of an edited model, and of its denoiser alone: the edit, exact bit by bit."""
    folder = base("sd1")
    made = text_map(folder)
    bake(made, folder, tmp_path / "m")
    found = read_foreign_edit(tmp_path / "m", folder)
    same_edit(found.edit, made, folder)
    baked, own = parameters(tmp_path / "m", "unet"), parameters(folder, "unet")
    assert all(torch.equal((own[n] + found.edit.delta(n, own[n])).float(), baked[n]) for n in made.names)
    same_edit(read_foreign_edit(tmp_path / "m/unet", folder).edit, made, folder)


@pytest.mark.slow
def test_a_whole_checkpoint_in_other_forms(base, tmp_path) -> None:  # noqa: F811
    """A single file; half precision, where the base's weights differ by their rounding alone; a base in one file."""
    folder = base("sd1")
    made = text_map(folder)
    export_edit(made, folder, "single-file", tmp_path / "s.safetensors")
    found = read_foreign_edit(tmp_path / "s.safetensors", folder)
    same_edit(found.edit, made, folder)
    assert any("outside denoiser and text encoders are not compared" in note for note in found.notes)
    export_edit(made, folder, "diffusers", tmp_path / "half", torch.float16)
    half = read_foreign_edit(tmp_path / "half", folder)
    assert half.edit.names == made.names
    assert any("rounded to a narrower dtype" in note for note in half.notes)
    one = single(folder, tmp_path / "base")
    bake(made, folder, tmp_path / "m")
    same_edit(read_foreign_edit(tmp_path / "m", one).edit, made, folder)


def test_checkpoints_that_are_no_edits_of_the_base(base, tiny_folder, tmp_path) -> None:  # noqa: F811
    folder = base("sd1")
    for path, said in ((folder, "it is not edited"), (tiny_folder("sd2"), "it is a sd2 model, base is sd1")):
        with pytest.raises(EditError, match=said):
            read_foreign_edit(path, folder)
    shutil.copytree(folder, tmp_path / "v")
    vae = tmp_path / "v/vae/diffusion_pytorch_model.safetensors"
    save_file({name: tensor + 0.1 for name, tensor in load_file(vae).items()}, vae, metadata={"format": "pt"})
    unet = tmp_path / "v/unet/diffusion_pytorch_model.safetensors"
    save_file(load_file(unet) | edited(folder), unet, metadata={"format": "pt"})
    assert any("its autoencoder differs" in note for note in read_foreign_edit(tmp_path / "v", folder).notes)


@pytest.mark.slow
def test_an_8_bit_checkpoint(base, tmp_path) -> None:  # noqa: F811
    """Scaled weights of an edited model against the same model in 8 bits."""
    folder, name = base("sd1"), "unet/diffusion_pytorch_model.safetensors"
    ours, theirs = (shutil.copytree(folder, tmp_path / place) for place in ("ours", "theirs"))
    rewritten(ours / name, torch.float8_e4m3fn, True, tmp_path / "plain.safetensors")
    save_file(load_file(theirs / name) | edited(folder), theirs / name, metadata={"format": "pt"})
    save_file(stored(load_file(theirs / name), torch.float8_e4m3fn, True), theirs / name, metadata={"format": "pt"})
    found = read_foreign_edit(theirs, ours).edit
    assert set(found.names) <= {f"unet.{key}" for key in edited(folder)}
    assert len(found.names) > 4
