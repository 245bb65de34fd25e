"""Names of exported tensors against committed lists of the names in real SD 1.5, SD 2.x and SDXL files.

How `keys/*.txt` were made, without any of our own code: the real networks' configs on the meta device give diffusers'
names. `*-single-file.txt` and `sd2-text-encoder.txt` are what the maps of diffusers' published scripts
`convert_diffusers_to_original_stable_diffusion.py` and `..._sdxl.py` make of them (text_projection as in the published
SDXL file). They hold 1,130 and 2,513 names; the published files have one and two more, which are no weights of the
networks: position_ids and logit_scale. `sd1-kohya.txt` is `convert_state_dict_to_kohya` of diffusers; `sdxl-kohya.txt`
is ComfyUI's rule, "lora_unet_" before the native name with underscores; the text encoders' are the six modules a layer
that ComfyUI and A1111 know.
"""

import json
from functools import cache
from pathlib import Path

import pytest
import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.lora_conversion_utils import _convert_unet_lora_key, _maybe_map_sgm_blocks_to_diffusers
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from unconcept.core.errors import ModelError
from unconcept.edits.export.lora_keys import comfyui_name, kohya_name, lora_name_candidates
from unconcept.models.layouts.layout import ModelLayout, group_by_packed_tensor

KEYS = Path(__file__).parent / "keys"
SDXL = {
    "sample_size": 128,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "attention_head_dim": [5, 10, 20],
    "block_out_channels": [320, 640, 1280],
    "cross_attention_dim": 2048,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "projection_class_embeddings_input_dim": 2816,
    "transformer_layers_per_block": [1, 2, 10],
    "use_linear_projection": True,
}
SD2 = {
    "sample_size": 96,
    "cross_attention_dim": 1024,
    "attention_head_dim": [5, 10, 20, 20],
    "use_linear_projection": True,
}
UNETS = {"sd1": {"sample_size": 64, "cross_attention_dim": 768}, "sd2": SD2, "sdxl": SDXL}
VAE = {
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
}
CLIP_L = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "hidden_act": "quick_gelu",
}
CLIP_H = {
    "hidden_size": 1024,
    "num_hidden_layers": 23,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "hidden_act": "gelu",
}
CLIP_G = {
    "hidden_size": 1280,
    "num_hidden_layers": 32,
    "intermediate_size": 5120,
    "num_attention_heads": 20,
    "hidden_act": "gelu",
    "projection_dim": 1280,
}
ENCODERS = {"sd1": (CLIP_L,), "sd2": (CLIP_H,), "sdxl": (CLIP_L, CLIP_G)}


def listed(name: str) -> set[str]:
    return set((KEYS / f"{name}.txt").read_text().split())


@cache
def parts(family: str) -> dict[str, nn.Module]:
    """The real networks, without their weights."""
    with init_empty_weights():
        found: dict[str, nn.Module] = {"unet": UNet2DConditionModel(**UNETS[family]), "vae": AutoencoderKL(**VAE)}
        for i, config in enumerate(ENCODERS[family]):
            kind = CLIPTextModelWithProjection if i else CLIPTextModel
            found["text_encoder_2" if i else "text_encoder"] = kind(CLIPTextConfig(**config))
    return found


def parameters(family: str) -> dict[str, torch.Tensor]:
    """Full name to parameter."""
    return {f"{part}.{name}": p for part, module in parts(family).items() for name, p in module.named_parameters()}


@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    """Layouts as they are read from the real configs."""

    @cache
    def of(family: str) -> ModelLayout:
        folder = tmp_path_factory.mktemp(family)
        for part, module in parts(family).items():
            (folder / part).mkdir()
            config = module.config.to_dict() if hasattr(module.config, "to_dict") else dict(module.config)
            (folder / part / "config.json").write_text(json.dumps(config, default=str))
        kind = "StableDiffusionXLPipeline" if family == "sdxl" else "StableDiffusionPipeline"
        (folder / "model_index.json").write_text(json.dumps({"_class_name": kind}))
        return ModelLayout.of(folder)

    return of


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_single_file_holds_the_names_of_the_real_file(family, layout) -> None:
    assert set(group_by_packed_tensor(parameters(family), layout(family))) == listed(f"{family}-single-file")


def test_sd2_differs_from_sd1_in_its_text_encoder_alone(layout) -> None:
    """The published 2.x files have SD 1.x's UNet and VAE names."""
    found = set(group_by_packed_tensor(parameters("sd2"), layout("sd2")))
    first = {name for name in listed("sd1-single-file") if not name.startswith("cond_stage_model.")}
    assert found == first | listed("sd2-text-encoder")


def test_queries_keys_and_values_stand_in_openclips_order(layout) -> None:
    found = group_by_packed_tensor(parameters("sdxl"), layout("sdxl"))
    names = found["conditioner.embedders.1.model.transformer.resblocks.3.attn.in_proj_weight"]
    assert [name.split(".")[-2] for name in names] == ["q_proj", "k_proj", "v_proj"]


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_the_lists_are_what_diffusers_reads(family) -> None:
    """Its loader of single files makes of the listed UNet names exactly the real UNet's."""
    there = {
        name: torch.empty(0) for name in listed(f"{family}-single-file") if name.startswith("model.diffusion_model.")
    }
    unet = parts(family)["unet"]
    assert set(convert_ldm_unet_checkpoint(there, unet.config)) == {name for name, _ in unet.named_parameters()}


def matrices(family: str) -> list[str]:
    return [
        name
        for name, p in parameters(family).items()
        if p.ndim > 1 and not name.startswith("vae.") and not name.endswith("_embedding.weight")
    ]


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_kohya_names_are_those_of_real_loras(family, layout) -> None:
    """Every matrix of the UNet, and the attention and MLP of each text layer; SDXL's text_projection besides."""
    found = {kohya_name(name, layout(family))[0] for name in matrices(family)}
    assert found - {"lora_te2_text_projection"} == listed(f"{family}-kohya")
    assert len(found) == len(matrices(family)), "no two modules share a name"


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_diffusers_reads_each_kohya_name_as_the_module_meant(family, layout) -> None:
    unet = parts(family)["unet"]
    names = [name for name in matrices(family) if name.startswith("unet.")]
    meant = {f"{kohya_name(name, layout(family))[0]}.lora_down.weight": name for name in names}
    read = []
    for key, name in meant.items():
        (mapped,) = _maybe_map_sgm_blocks_to_diffusers({key: None}, unet.config)
        module = (
            _convert_unet_lora_key(mapped)
            .replace(".processor.", ".")
            .replace("_lora.down.weight", "")
            .replace(".lora.down.weight", "")
        )
        read.append(
            (module + ".0" if module.endswith(".to_out") else module)
            == name.removeprefix("unet.").removesuffix(".weight")
        )
    assert all(read)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_comfyui_names_are_those_of_its_networks(family, layout) -> None:
    """Its UNet goes by the original names, its CLIPs by transformers' with `text_model.`: comfy/lora.py takes a key
    without `.weight`.
    """
    native = {
        name.removeprefix("model.")
        for name in listed(f"{family}-single-file")
        if name.startswith("model.diffusion_model.")
    }
    prefixes = ("cond_stage_model.transformer.", "conditioner.embedders.0.transformer.")
    for prefix in prefixes:
        native |= {
            name.replace(prefix, "text_encoders.clip_l.transformer.")
            for name in listed(f"{family}-single-file")
            if name.startswith(prefix)
        }
    names = [name for name in parameters(family) if name.startswith(("unet.", "text_encoder."))]
    found = {comfyui_name(name, layout(family))[0] for name in names}
    assert found == native
    if family == "sdxl":
        name = "text_encoder_2.text_model.encoder.layers.31.mlp.fc2.weight"
        assert (
            comfyui_name(name, layout(family))[0]
            == "text_encoders.clip_g.transformer.text_model.encoder.layers.31.mlp.fc2.weight"
        )


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_no_name_a_lora_may_use_means_two_modules(family, layout) -> None:
    """But for bare module names, which SDXL's two encoders share: PEFT's folders say nothing of the part."""
    means: dict[str, set[str]] = {}
    for name in matrices(family):
        for known, _ in lora_name_candidates(name, layout(family)):
            means.setdefault(known, set()).add(name)
    assert not [
        known
        for known, names in means.items()
        if len(names) > 1 and known.startswith(("lora_", "unet.", "text_encoder", "diffusion_model."))
    ]


def test_what_has_no_place_is_refused(layout) -> None:
    for name in (
        "unet.down_blocks.0.nonsense.1.weight",
        "vae.decoder.nonsense.weight",
        "safety_checker.a.weight",
        "unet.down_blocks.0.resnets.0.extra.weight",
    ):
        with pytest.raises(ModelError, match="has no name in the original layout"):
            layout("sd1").in_single_file(name)
    with pytest.raises(ModelError, match="has no name in the original layout"):
        layout("sd2").in_single_file("text_encoder.encoder.nonsense.weight")
