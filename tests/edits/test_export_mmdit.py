"""SD3 and FLUX as single files and folders, there and back: diffusers' own converters read what is exported as the
edited model.
"""

import shutil
from pathlib import Path

import pytest
import torch
from diffusers import ChromaPipeline, FluxPipeline, StableDiffusion3Pipeline
from safetensors.torch import load_file, save_file

from tests.edits.mmdit_toys import EACH, MAKERS, dense, exported, low_rank, picture, text_edit, transformers_own
from tests.edits.test_export import networks, parameters, stock
from tests.fast_cases import fast_among
from unconcept.core.errors import EditError, ModelError
from unconcept.core.request import RequestSpec
from unconcept.edits.export.bake import bake
from unconcept.edits.export.export import export_edit
from unconcept.edits.export.foreign import read_foreign_edit
from unconcept.erasing.make_edit import make_edit
from unconcept.erasing.request_defaults import resolve_request
from unconcept.models import open_model
from unconcept.models.checkpoint.locations import tensor_locations
from unconcept.models.checkpoint.safetensors_io import read_tensors, tensor_shapes
from unconcept.models.families import families

PIPELINES = {"sd3": StableDiffusion3Pipeline, "flux": FluxPipeline, "chroma": ChromaPipeline}

pytestmark = pytest.mark.usefixtures("narrow_flux")


def single(folder: Path, place: Path, family: str) -> Path:
    """The folder's weights in one file, its configs alone in the folder of that name beside it."""
    place.mkdir(parents=True, exist_ok=True)
    export_edit(text_edit(folder, family).scaled(0.0), folder, "single-file", place / "m.safetensors")
    shutil.copytree(folder, place / "m", ignore=shutil.ignore_patterns("*.safetensors"))
    return place / "m.safetensors"


# Every kind of edit and both families; that a patched file is the exported one is asked of each pair below.
@pytest.mark.parametrize(
    ("make", "family"),
    fast_among(
        [(make, family) for make in MAKERS for family in PIPELINES],
        [(text_edit, "sd3"), (low_rank, "flux"), (dense, "sd3")],
    ),
)
def test_diffusers_reads_the_single_file_as_the_baked_folder(make, family, mmdit_base, tmp_path) -> None:
    folder = mmdit_base(family)
    edit = make(folder, family)
    export_edit(edit, folder, "single-file", tmp_path / "m.safetensors")
    bake(edit, folder, tmp_path / "baked")
    read_back = PIPELINES[family].from_single_file(
        str(tmp_path / "m.safetensors"), config=str(folder), local_files_only=True
    )
    found, wanted = networks(read_back), networks(stock(tmp_path / "baked"))
    assert {name for name in found if not name.endswith("encoder.embed_tokens.weight")} == wanted.keys()
    assert [name for name in wanted if not torch.equal(found[name], wanted[name])] == []
    torch.testing.assert_close(picture(read_back), picture(stock(tmp_path / "baked")), rtol=0, atol=1e-5)


@EACH
def test_a_single_file_is_a_model(family, mmdit_base, tmp_path) -> None:
    """Names, shapes and bits are the folder's; nothing is built to edit it; the edited file is what is exported of the
    edited folder; the pictures agree.
    """
    folder = mmdit_base(family)
    file = single(folder, tmp_path, family)
    for part in sorted(path.name for path in folder.iterdir() if path.name.startswith(("transformer", "text_encoder"))):
        known, wanted = tensor_locations(file, part), tensor_locations(folder, part)
        ours = {name.removeprefix("text_model."): name for name in known if name != "encoder.embed_tokens.weight"}
        encoder = families[family].encoder(part)
        left = ("position_ids", "text_projection.weight") if encoder and encoder.is_unprojected else ("position_ids",)
        theirs = {name.removeprefix("text_model."): name for name in wanted if not name.endswith(left)}
        assert ours.keys() == theirs.keys()
        assert all(tensor_shapes(known)[ours[name]] == tensor_shapes(wanted)[theirs[name]] for name in ours)
        found, there = read_tensors(known, known), read_tensors(wanted, wanted)
        assert all(torch.equal(found[ours[name]], there[theirs[name]]) for name in ours)
    view = open_model(str(file), "cpu", "float32")
    edit = text_edit(folder, family)
    again = make_edit(view, resolve_request(RequestSpec(("dog face", "car"), ("goat",), ("cat",)), "tiny"), "uce", {})
    assert (view.family, view.pipeline, again.origin.base_hash) == (family, None, edit.origin.base_hash)
    for make in MAKERS:
        changed = transformers_own(make(folder, family), folder)
        bake(changed, file, tmp_path / f"{make.__name__}.safetensors")
        patched, wanted = (
            load_file(tmp_path / f"{make.__name__}.safetensors"),
            exported(changed, folder, "single-file", tmp_path / f"w-{make.__name__}.safetensors"),
        )
        assert patched.keys() == wanted.keys()
        assert [name for name in wanted if not torch.equal(patched[name], wanted[name])] == []
    noise = torch.randn(1, *view.latent_shape, generator=torch.Generator().manual_seed(0))
    other = open_model(str(folder), "cpu", "float32")
    torch.testing.assert_close(
        view.sample(["a dog"], noise, 2, 3.0), other.sample(["a dog"], noise, 2, 3.0), rtol=0, atol=1e-5
    )


def test_flux_as_it_is_published(mmdit_base, tmp_path) -> None:
    """The transformer alone, without a prefix; text encoders and VAE stand in the folder of its configs."""
    folder = mmdit_base("flux")
    file = single(folder, tmp_path, "flux")
    own = {
        name.removeprefix("model.diffusion_model."): t
        for name, t in load_file(file).items()
        if name.startswith("model.diffusion_model.")
    }
    shutil.rmtree(tmp_path / "m")
    shutil.copytree(
        folder,
        tmp_path / "m",
        ignore=lambda where, names: [n for n in names if where.endswith("transformer") and n.endswith(".safetensors")],
    )
    save_file(own, file)
    view, other = open_model(str(file), "cpu", "float32"), open_model(str(folder), "cpu", "float32")
    torch.testing.assert_close(view.embed(["a dog", ""]), other.embed(["a dog", ""]), rtol=0, atol=1e-6)
    noise = torch.randn(1, *view.latent_shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        view.sample(["a dog"], noise, 2, 3.0), other.sample(["a dog"], noise, 2, 3.0), rtol=0, atol=1e-5
    )
    shutil.rmtree(tmp_path / "m/text_encoder_2")
    with pytest.raises(ModelError, match="text_encoder_2"):
        open_model(str(file), "cpu", "float32")


@EACH
def test_diffusers_folder_in_another_dtype(family, mmdit_base, tmp_path) -> None:
    folder = mmdit_base(family)
    edit = dense(folder, family)
    export_edit(edit, folder, "diffusers", tmp_path / "half", torch.float16)
    before = parameters(folder, "transformer", "text_encoder", "vae")
    for name, tensor in parameters(tmp_path / "half", "transformer", "text_encoder", "vae").items():
        wanted = before[name] + edit.delta(name, before[name]) if name in edit.names else before[name]
        assert torch.equal(tensor, wanted.half()), name
    assert picture(stock(tmp_path / "half")).isfinite().all()


@EACH
def test_what_has_no_place_is_refused(family, mmdit_base, tmp_path) -> None:
    """Neither in an export nor in an import is a key left out in silence."""
    folder = tmp_path / "m"
    shutil.copytree(mmdit_base(family), folder)
    (file,) = (folder / "transformer").glob("*.safetensors")
    whole = load_file(file)
    edit = text_edit(mmdit_base(family), family)
    save_file(whole | {"transformer_blocks.0.attn.novelty.weight": torch.ones(2)}, file)
    with pytest.raises(ModelError, match=r"novelty\.weight has no name in the original layout"):
        export_edit(edit, folder, "single-file", tmp_path / "o.safetensors")
    save_file({name: t for name, t in whole.items() if not name.endswith("blocks.0.attn.to_q.bias")}, file)
    with pytest.raises(ModelError, match=r"needs \d parts and has \d"):
        export_edit(edit, folder, "single-file", tmp_path / "o.safetensors")
    assert not (tmp_path / "o.safetensors").exists()
    lora = exported(edit, mmdit_base(family), "kohya", tmp_path / "l.safetensors")
    save_file({key.replace("lora_unet_", "lora_unet_x_"): t for key, t in lora.items()}, tmp_path / "x.safetensors")
    with pytest.raises(EditError, match="are not in base, the first is lora_unet_x_"):
        read_foreign_edit(tmp_path / "x.safetensors", mmdit_base(family))
