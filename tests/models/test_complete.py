"""A model that lacks layers, calls them otherwise, or has them in other shapes, is refused by what its own config
implies.
"""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate import init_empty_weights
from diffusers import FluxTransformer2DModel, SD3Transformer2DModel, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from tests import tiny
from tests.edits.test_export import base  # noqa: F401
from tests.edits.test_export_names import UNETS, parts
from tests.models.test_single_file import single
from unconcept.core.errors import ModelError
from unconcept.models import open_model
from unconcept.models.checkpoint.validation import encoder_tensors
from unconcept.models.layouts.mmdit import JOINT_ATTENTION_MAP, joint_maps
from unconcept.models.layouts.unet import CROSS_ATTENTION_MAP, unet_maps
from unconcept.models.views import view_of_pipeline

ALL = (*tiny.FAMILIES, *tiny.MMDITS)
A_MAP = dict.fromkeys(tiny.FAMILIES, "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight")
A_MAP |= {"sd3": "transformer_blocks.1.attn.add_v_proj.weight", "flux": "single_transformer_blocks.0.attn.to_k.weight"}
SHALLOW = {
    "sample_size": 8,
    "block_out_channels": (8, 16),
    "cross_attention_dim": 8,
    "attention_head_dim": 2,
    "norm_num_groups": 4,
}
KINDS = {"down_block_types": ("CrossAttnDownBlock2D",) * 2, "up_block_types": ("CrossAttnUpBlock2D",) * 2}


def shapes(net: torch.nn.Module, pattern: re.Pattern[str] = re.compile("")) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in net.named_parameters() if pattern.search(name)}


@pytest.mark.parametrize(("family", "count"), [("sd1", 32), ("sd2", 32), ("sdxl", 140)])
def test_the_published_unets_count_as_they_should(family, count) -> None:
    wanted = dict(unet_maps(UNETS[family] if family == "sdxl" else dict(parts(family)["unet"].config)))
    assert len(wanted) == count
    assert wanted == shapes(parts(family)["unet"], CROSS_ATTENTION_MAP)


@pytest.mark.parametrize(
    "given",
    [
        {"layers_per_block": [1, 2]},
        {"layers_per_block": 1, "transformer_layers_per_block": [2, 1]},
        {
            "layers_per_block": 1,
            "transformer_layers_per_block": [[2], [1]],
            "reverse_transformer_layers_per_block": [[1, 2], [2, 1]],
        },
        {"layers_per_block": 1, "mid_block_type": None},
        {"layers_per_block": 1, "cross_attention_dim": (8, 12)},
        {"layers_per_block": 1, "mid_block_type": "UNetMidBlock2D"},
    ],
)
def test_unets_of_every_shape(given) -> None:
    with init_empty_weights():
        net = UNet2DConditionModel(**{**SHALLOW, **KINDS, **given})
    assert dict(unet_maps(dict(net.config))) == shapes(net, CROSS_ATTENTION_MAP)


@pytest.mark.parametrize(
    ("kind", "given", "count"),
    [
        (SD3Transformer2DModel, {"num_layers": 24, "dual_attention_layers": (0, 3), "qk_norm": "rms_norm"}, 98),
        (FluxTransformer2DModel, {"num_layers": 19, "num_single_layers": 38}, 154),
    ],
)
def test_published_transformers(kind, given, count) -> None:
    with init_empty_weights():
        net = kind(**given)
    wanted = dict(joint_maps(dict(net.config)))
    assert len(wanted) == count
    assert wanted == shapes(net, JOINT_ATTENTION_MAP)


@pytest.mark.parametrize("family", ALL)
def test_encoders_hold_what_is_asked(family) -> None:
    view = tiny.shared(family)
    for part in (part for part in ("text_encoder", "text_encoder_2", "text_encoder_3") if view.checkpoint.has(part)):
        found = {name.removeprefix("text_model."): shape for name, shape in shapes(view.modules(part)).items()}
        assert dict(encoder_tensors(view.checkpoint.config(part))).items() <= found.items()


def denoiser(family: str) -> str:
    return "unet" if family in tiny.FAMILIES else "transformer"


def rewritten(file: Path, change: Callable[[str], str | None]) -> None:
    tensors = {change(name): tensor.clone() for name, tensor in load_file(file).items()}
    save_file({name: tensor for name, tensor in tensors.items() if name is not None}, file, metadata={"format": "pt"})


def refused(source: Path, *said: str) -> None:
    with pytest.raises(ModelError) as raised:
        open_model(str(source), "cpu", "float32")
    assert all(words in str(raised.value) for words in said), str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("family", ALL)
def test_a_folder_that_lacks_or_renames_a_layer(family, tmp_path) -> None:
    """Opened from files: nothing is built."""
    folder, part, name = tiny.folder(family, tmp_path / "m"), denoiser(family), A_MAP[family]
    view = open_model(str(folder), "cpu", "float32")
    assert view.pipeline is None
    (file,) = (folder / part).glob("*.safetensors")
    before, kept = file.read_bytes(), load_file(file)
    count = sum(bool((CROSS_ATTENTION_MAP if part == "unet" else JOINT_ATTENTION_MAP).search(name)) for name in kept)
    for change in (
        lambda n: None if n == name else n,
        lambda n: n.replace(".to_", ".query_") if n == name else n.replace("add_v_proj", "v_text"),
    ):
        rewritten(file, change)
        refused(folder, f"{part} needs {count} maps", "is missing or renamed", name if change(name) is None else part)
        file.write_bytes(before)
    (encoder,) = (folder / "text_encoder").glob("*.safetensors")
    rewritten(encoder, lambda n: None if n.endswith("layers.1.mlp.fc1.weight") else n)
    refused(folder, "text_encoder needs 36 tensors", "and has 35;", "encoder.layers.1.mlp.fc1.weight")


@pytest.mark.parametrize("family", ALL)
@pytest.mark.parametrize("cut", [(slice(None, -1),), (slice(None), slice(None, -1))])
def test_a_folder_with_a_layer_of_another_shape(family, cut, tmp_path) -> None:
    """Fewer rows of a map would be edited without a word, fewer columns end in torch's own error."""
    folder = tiny.folder(family, tmp_path / "m")
    for part, name in ((denoiser(family), A_MAP[family]), ("text_encoder", "encoder.layers.1.mlp.fc1.weight")):
        (file,) = (folder / part).glob("*.safetensors")
        before, tensors = file.read_bytes(), load_file(file)
        (key,) = (key for key in tensors if key.endswith(name))
        shape = tuple(tensors[key].shape)
        save_file({**tensors, key: tensors[key][cut].contiguous()}, file, metadata={"format": "pt"})
        refused(folder, f"{part}: {name} has shape (", f"its config.json implies {shape}")
        file.write_bytes(before)


@pytest.mark.parametrize("family", ALL)
def test_a_pipeline_in_memory(family) -> None:
    pipe = tiny.pipeline(family)
    net = getattr(pipe, denoiser(family))
    module, _, _ = A_MAP[family].rpartition(".")
    parent, _, own = module.rpartition(".")
    delattr(net.get_submodule(parent), own)
    with pytest.raises(ModelError, match=f"{A_MAP[family]} is missing"):
        view_of_pipeline(pipe)


@pytest.mark.parametrize("family", ["sd1", "flux"])
def test_shards(family, tmp_path) -> None:
    """The index is what is counted: a layer that it does not name, and a model deeper than its config."""
    pipe, part = tiny.pipeline(family), denoiser(family)
    pipe.save_pretrained(tmp_path / "m", max_shard_size="60KB")
    (index,) = (tmp_path / "m" / part).glob("*.index.json")
    table = json.loads(index.read_text())
    assert len(set(table["weight_map"].values())) > 1
    whole = dict(table["weight_map"])
    del table["weight_map"][A_MAP[family]]
    index.write_text(json.dumps(table))
    refused(tmp_path / "m", f"{A_MAP[family]} is missing")
    table["weight_map"] = whole | {A_MAP[family].replace("blocks.0", "blocks.7"): whole[A_MAP[family]]}
    index.write_text(json.dumps(table))
    refused(tmp_path / "m", "and 1 more, such as ", "blocks.7")


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_single_file(family, base, tmp_path) -> None:  # noqa: F811
    file = single(base(family), tmp_path)
    rewritten(file, lambda n: None if n.endswith("middle_block.1.transformer_blocks.0.attn2.to_v.weight") else n)
    refused(file, "maps", "mid_block.attentions.0.transformer_blocks.0.attn2.to_v.weight is missing")


def test_a_config_that_says_nothing(tmp_path) -> None:
    for part in ("unet", "text_encoder"):
        folder = tiny.folder("sd1", tmp_path / part)
        told = json.loads((folder / part / "config.json").read_text())
        kept = {name: value for name, value in told.items() if name not in ("down_block_types", "num_hidden_layers")}
        (folder / part / "config.json").write_text(json.dumps(kept))
        refused(folder, f"{part}/config.json lacks the number or sizes of layers")
        shutil.rmtree(folder)


def test_t5_may_be_left_out_of_sd3(tmp_path) -> None:
    folder = tiny.folder("sd3", tmp_path / "m")
    for part in ("text_encoder_3", "tokenizer_3"):
        shutil.rmtree(folder / part)
    assert torch.isfinite(open_model(str(folder), "cpu", "float32").embed(["a dog"])).all()


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("scaling_factor", (None, "x", [], {}, True, 0, -1, 10**400, float("nan"))),
        ("shift_factor", ("x", [], True, 10**400)),
    ],
)
def test_what_scales_latents_is_a_number(name, values, tmp_path) -> None:
    """The sampler divides by it, outside of the library that reads the config."""
    folder = tiny.folder("sd1", tmp_path / "m")
    path = folder / "vae/config.json"
    told = json.loads(path.read_text())
    for value in values:
        path.write_text(json.dumps(told | {name: value}))
        with pytest.raises(
            ModelError, match=rf"vae/config.json has the .*{name} .*: give the model with its own"
        ) as said:
            open_model(str(folder))
        assert "\n" not in str(said.value)
    path.write_text(json.dumps({key: value for key, value in told.items() if key != name}))
    assert open_model(str(folder)).latent_shape


def test_latents_that_cannot_be_packed(tmp_path) -> None:
    """FLUX packs squares of two cells."""
    folder = tiny.folder("flux", tmp_path / "m")
    path = folder / "vae/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sample_size": 3}))
    with pytest.raises(ModelError, match="do not tell the size of its latents, but "):
        open_model(str(folder))
