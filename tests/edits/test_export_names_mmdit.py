"""Names of exported SD3 and FLUX tensors against committed lists of the names in the published files.

How `keys/*-transformer.txt` were made, without any of our own code: block 0 of each stack and all names outside of the
stacks as others' loaders and captures of flux1-dev (780 tensors) and sd3_medium (491) spell them, repeated for every
block;
3.5 medium has the norms of queries and keys besides, and in its first 13 blocks a second attention; 3.5 large and
Chroma are listed as diffusers' converters and ComfyUI spell them, at the published numbers of blocks. That diffusers'
own converters take exactly these lists is a test below.
"""

import json
from functools import cache
from pathlib import Path

import pytest
import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, ChromaTransformer2DModel, FluxTransformer2DModel, SD3Transformer2DModel
from diffusers.loaders.single_file_utils import (
    convert_chroma_transformer_checkpoint_to_diffusers,
    convert_flux_transformer_checkpoint_to_diffusers,
    convert_sd3_transformer_checkpoint_to_diffusers,
)
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from tests.edits.test_export_names import CLIP_G, CLIP_L, VAE, listed
from unconcept.edits.export.lora_keys import comfyui_patch, kohya_name, lora_name_candidates
from unconcept.models.families import families
from unconcept.models.layouts.layout import ModelLayout, group_by_packed_tensor

SD3 = {
    "num_layers": 24,
    "num_attention_heads": 24,
    "attention_head_dim": 64,
    "joint_attention_dim": 4096,
    "caption_projection_dim": 1536,
}
SD35_MEDIUM = {**SD3, "dual_attention_layers": tuple(range(13)), "qk_norm": "rms_norm", "pos_embed_max_size": 384}
SD35_LARGE = {
    "num_layers": 38,
    "num_attention_heads": 38,
    "attention_head_dim": 64,
    "joint_attention_dim": 4096,
    "caption_projection_dim": 2432,
    "qk_norm": "rms_norm",
    "pos_embed_max_size": 192,
}
KINDS = {
    "sd3": (SD3Transformer2DModel, SD3),
    "sd35-medium": (SD3Transformer2DModel, SD35_MEDIUM),
    "sd35-large": (SD3Transformer2DModel, SD35_LARGE),
    "flux": (FluxTransformer2DModel, {"guidance_embeds": True}),
    "chroma": (ChromaTransformer2DModel, {}),
}
COUNTS = {"sd3": 491, "sd35-medium": 665, "sd35-large": 923, "flux": 780, "chroma": 643}
ENCODERS = {"sd3": (CLIP_L, CLIP_G), "flux": (CLIP_L,), "chroma": ()}  # CLIPs; T5 is the last
T5 = {
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
    "vocab_size": 32128,
}
SLOW = ("sd35-medium", "sd35-large")
EACH = pytest.mark.parametrize(
    "model", [pytest.param(model, marks=[pytest.mark.slow] if model in SLOW else []) for model in KINDS]
)
CONVERTERS = {
    "sd3": convert_sd3_transformer_checkpoint_to_diffusers,
    "flux": convert_flux_transformer_checkpoint_to_diffusers,
    "chroma": convert_chroma_transformer_checkpoint_to_diffusers,
}


def family(model: str) -> str:
    return "sd3" if model.startswith("sd3") else model


@cache
def parts(model: str) -> dict[str, nn.Module]:
    """The real networks, without their weights."""
    kind, config = KINDS[model]
    with init_empty_weights():
        vae = AutoencoderKL(**VAE, latent_channels=16, use_quant_conv=False, use_post_quant_conv=False)
        texts = [T5EncoderModel(T5Config(**T5))]
        clip = CLIPTextModelWithProjection if family(model) == "sd3" else CLIPTextModel
        texts = [*(clip(CLIPTextConfig(**config)) for config in ENCODERS[family(model)]), *texts]
        found: dict[str, nn.Module] = {"transformer": kind(**config), "vae": vae}
    return found | {f"text_encoder_{i + 1}" if i else "text_encoder": module for i, module in enumerate(texts)}


def tensors(model: str) -> dict[str, torch.Tensor]:
    """Full name to tensor."""
    return {
        f"{part}.{name}": p
        for part, module in parts(model).items()
        for name, p in module.state_dict().items()
        if not name.endswith("position_ids")
    }


@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    """Layouts as they are read from the real configs."""

    @cache
    def of(model: str) -> ModelLayout:
        folder: Path = tmp_path_factory.mktemp(model)
        for part, module in parts(model).items():
            (folder / part).mkdir()
            config = module.config.to_dict() if hasattr(module.config, "to_dict") else dict(module.config)
            (folder / part / "config.json").write_text(json.dumps(config, default=str))
        (folder / "model_index.json").write_text(json.dumps({"_class_name": families[family(model)].pipeline}))
        return ModelLayout.of(folder)

    return of


@EACH
@pytest.mark.slow
def test_the_lists_are_what_diffusers_reads(model) -> None:
    """Its converter makes of the listed names exactly the real transformer's and leaves none over."""
    given = {
        name: torch.empty(21504 if ".linear1." in name else 6, 1, device="meta")
        for name in listed(f"{model}-transformer")
    }
    assert len(given) == COUNTS[model]
    net = parts(model)["transformer"]
    assert set(CONVERTERS[family(model)](given)) == {name for name, _ in net.state_dict().items()}
    assert not given or set(given) <= {"context_embedder.weight"}


@EACH
def test_single_file_holds_the_names_of_the_real_file(model, layout) -> None:
    """The VAE is SDXL's without its 1 x 1 maps around the latents; the encoders go by transformers' own names."""
    found = set(group_by_packed_tensor(tensors(model), layout(model)))
    start = "model.diffusion_model."
    assert {name.removeprefix(start) for name in found if name.startswith(start)} == listed(f"{model}-transformer")
    vae = families[family(model)].vae_prefix
    sdxl = {
        name.removeprefix("first_stage_model.")
        for name in listed("sdxl-single-file")
        if name.startswith("first_stage_model.")
    }
    assert {name.removeprefix(vae) for name in found if name.startswith(vae)} == {
        name for name in sdxl if "quant_conv" not in name
    }
    clip_l = {
        name.removeprefix("cond_stage_model.transformer.")
        for name in listed("sd1-single-file")
        if name.startswith("cond_stage_model.")
    }
    texts = {name for name in found if name.startswith("text_encoders.clip_l.transformer.")}
    assert {name.removeprefix("text_encoders.clip_l.transformer.") for name in texts} - {"text_projection.weight"} == (
        clip_l if ENCODERS[family(model)] else set()
    )
    wanted = {
        "shared.weight",
        "encoder.embed_tokens.weight",
        "encoder.block.23.layer.1.DenseReluDense.wi_1.weight",
        "encoder.final_layer_norm.weight",
    }
    assert {f"text_encoders.t5xxl.transformer.{name}" for name in wanted} <= found
    others = (
        "text_encoders.clip_g.transformer.text_projection.weight",
        "text_encoders.clip_g.transformer.text_model.encoder.layers.31.mlp.fc2.weight",
    )
    assert (set(others) <= found) == (family(model) == "sd3")


@EACH
def test_comfyui_and_kohya_go_by_the_networks_own_names(model, layout) -> None:
    """ComfyUI's rule: `lora_unet_` and the name without `.weight`, underscores for dots; patches of weights by that
    name, of other tensors by the whole.
    """
    listing = listed(f"{model}-transformer")
    own = {name: p for name, p in tensors(model).items() if name.startswith("transformer.")}
    modules = {name.removesuffix(".weight") for name in listing if name.endswith(".weight")}
    flat = {f"lora_unet_{name.replace('.', '_')}" for name in modules}
    found = {kohya_name(name, layout(model))[0] for name, p in own.items() if p.ndim == 2 and name.endswith(".weight")}
    assert found <= flat
    assert {name for name in flat if "ln_" not in name and "x_embedder" not in name} == found - {
        "lora_unet_x_embedder_proj"
    }
    patches = {comfyui_patch(name, layout(model))[0].removeprefix("diffusion_model.") for name in own}
    ends = {".diff": ".weight", ".diff_b": ".bias"}
    named = {patch.rpartition(".")[0] + ends["." + patch.rpartition(".")[2]] for patch in patches}
    assert {name if name in listing else name.removesuffix(".weight") for name in named} == listing


@EACH
def test_encoders_of_loras(model, layout) -> None:
    """kohya's T5 is the third encoder, in FLUX too; ComfyUI reads it so, and as the first where it is alone."""
    clips = len(ENCODERS[family(model)])
    t5 = f"text_encoder_{clips + 1}" if clips else "text_encoder"
    assert (
        kohya_name(f"{t5}.encoder.block.0.layer.0.SelfAttention.q.weight", layout(model))[0]
        == f"lora_te{3 if clips else 1}_encoder_block_0_layer_0_SelfAttention_q"
    )
    if not clips:
        return
    clip = kohya_name("text_encoder.text_model.encoder.layers.0.mlp.fc1.weight", layout(model))[0]
    assert clip == "lora_te1_text_model_encoder_layers_0_mlp_fc1"


@EACH
def test_a_name_means_one_module_or_the_parts_of_one_map(model, layout) -> None:
    means: dict[str, list[tuple[str, tuple[int, int, int]]]] = {}
    for name in (
        name
        for name, p in tensors(model).items()
        if p.ndim == 2 and name.startswith("transformer.") and name.endswith(".weight")
    ):
        for known, laid in lora_name_candidates(name, layout(model)):
            means.setdefault(known, []).append((name, laid.rows))
    for known, found in means.items():
        rows = {rows for name, rows in found}
        assert len({name for name, _ in found}) == len(rows), (known, found)
