"""Checkpoints in the original layout: what is read from the one file is what the folder holds."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import tiny
from tests.edits.test_export import base, stamped  # noqa: F401
from unconcept.core.errors import ModelError
from unconcept.edits import DenseEdit
from unconcept.edits.export.export import export_edit
from unconcept.models import open_model
from unconcept.models.checkpoint.locations import tensor_locations
from unconcept.models.checkpoint.safetensors_io import read_tensors, tensor_shapes
from unconcept.models.families import families

TEXTS = ["dog face", "", "a moon"]


def single(folder: Path, place: Path) -> Path:
    """The folder's weights in one file, its configs alone in the folder of that name beside it."""
    first = next(name for name in open_model(str(folder), "cpu").text_maps())
    weight = open_model(str(folder), "cpu").reference([first])[first]
    place.mkdir(parents=True, exist_ok=True)
    export_edit(
        stamped(DenseEdit({first: torch.zeros_like(weight)}), folder), folder, "single-file", place / "m.safetensors"
    )
    shutil.copytree(folder, place / "m", ignore=shutil.ignore_patterns("*.safetensors"))
    return place / "m.safetensors"


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_every_tensor_of_the_networks_is_found(family, base, tmp_path) -> None:  # noqa: F811
    """Names, shapes and bits are those of the folder, whatever was stacked, turned or renamed; nothing is built.

    The pictures agree.
    """
    folder = base(family)
    file = single(folder, tmp_path)
    parts = [encoder.part for encoder in families[family].encoders]
    for part in ("unet", *parts):
        known, wanted = tensor_locations(file, part), tensor_locations(folder, part)
        names = [name for name in wanted if not name.endswith("position_ids")]
        ours = {name.removeprefix("text_model."): name for name in known}
        assert {name.removeprefix("text_model.") for name in names} == set(ours)
        assert all(
            tensor_shapes(known)[ours[name.removeprefix("text_model.")]] == tensor_shapes(wanted)[name]
            for name in names
        )
        found, there = read_tensors(known, known), read_tensors(wanted, names)
        assert all(torch.equal(found[ours[name.removeprefix("text_model.")]], there[name]) for name in names)
    view, other = open_model(str(file), "cpu", "float32"), open_model(str(folder), "cpu", "float32")
    assert view.family == family
    for at in ("all", "last_subject") + (("pooled",) if family == "sdxl" else ()):
        assert torch.equal(view.embed(TEXTS, at=at), other.embed(TEXTS, at=at))
    assert sorted(view.text_maps()) == sorted(other.text_maps())
    assert view.pipeline is None
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    # diffusers maps the files, and its kernels round by where in them a tensor begins.
    assert torch.allclose(
        view.sample(["a dog"], noise, 2, 3.0), other.sample(["a dog"], noise, 2, 3.0), rtol=0, atol=1e-5
    )


def test_a_text_encoder_without_its_prefix(base, tmp_path) -> None:  # noqa: F811
    file = single(base("sd1"), tmp_path)
    before = open_model(str(file), "cpu", "float32").embed(TEXTS)
    save_file(
        {name.replace(".transformer.text_model.", ".transformer."): t for name, t in load_file(file).items()}, file
    )
    assert torch.equal(open_model(str(file), "cpu", "float32").embed(TEXTS), before)


def test_bad_files_are_one_line(base, tmp_path) -> None:  # noqa: F811
    file = single(base("sd1"), tmp_path)
    lora = tmp_path / "l.safetensors"
    save_file({"lora_unet_x.lora_up.weight": torch.zeros(1)}, lora)
    shutil.copytree(tmp_path / "m", tmp_path / "l")
    flux = tmp_path / "f.safetensors"
    shutil.copy(file, flux)
    tiny.folder("flux", tmp_path / "f")
    alone, cut = tmp_path / "a.safetensors", tmp_path / "c.safetensors"
    shutil.copy(file, alone)
    shutil.copytree(tmp_path / "m", tmp_path / "c")
    cut.write_bytes(file.read_bytes()[:3000])
    for path, said in (
        (alone, "put the configs and tokenizers of its base"),
        (lora, "holds no unet in the original layout"),
        (flux, "holds no transformer in the original layout"),
        (cut, "missing, cut short or damaged"),
    ):
        with pytest.raises(ModelError, match=said) as raised:
            dict(open_model(str(path), "cpu").text_maps())
        assert "\n" not in str(raised.value)
