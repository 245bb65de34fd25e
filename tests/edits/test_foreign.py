"""LoRAs of other tools: every trainer's names, their scales, and files that are broken or of another kind."""

import json
import re
from functools import cache

import pytest
import torch
from diffusers.loaders.lora_conversion_utils import _convert_xlabs_flux_lora_to_diffusers
from safetensors.torch import load_file, save_file

from tests import tiny
from tests.edits.test_export import parameters
from tests.edits.test_imported import K, Q, drawn
from unconcept.core.errors import EditError
from unconcept.edits.export.foreign import read_foreign_edit

FLAT = K.replace(".", "_")
STEM = f"lora_unet_{FLAT}"
DOUBLE, SINGLE = "transformer_blocks.0.attn", "single_transformer_blocks.0"


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory):
    return cache(lambda family: tiny.folder(family, tmp_path_factory.mktemp(family) / "base"))


def pair(stem: str, up: torch.Tensor, down: torch.Tensor, kind: str = "lora_up lora_down") -> dict[str, torch.Tensor]:
    ends = kind.split()
    return {f"{stem}.{ends[0]}.weight": up, f"{stem}.{ends[1]}.weight": down}


@pytest.mark.parametrize(
    ("trainer", "family", "stem", "name"),
    [
        ("OneTrainer", "sd1", f"lora_unet_{FLAT}", f"unet.{K}"),
        ("OneTrainer", "sdxl", f"lora_unet_{FLAT}", f"unet.{K}"),
        ("OneTrainer", "sdxl", f"lora_te2_{Q.replace('.', '_')}", f"text_encoder_2.{Q}"),
        ("OneTrainer", "sd3", "lora_transformer_context_embedder", "transformer.context_embedder"),
        (
            "OneTrainer",
            "flux",
            f"lora_transformer_{DOUBLE}_add_k_proj".replace(".", "_"),
            f"transformer.{DOUBLE}.add_k_proj",
        ),
        (
            "OneTrainer",
            "pixart",
            "lora_transformer_transformer_blocks_0_attn2_to_k",
            "transformer.transformer_blocks.0.attn2.to_k",
        ),
        (
            "kohya",
            "flux",
            "lora_te3_encoder_block_0_layer_0_SelfAttention_q",
            "text_encoder_2.encoder.block.0.layer.0.SelfAttention.q",
        ),
        ("native", "sdxl", "lora_unet_input_blocks_1_1_transformer_blocks_0_attn2_to_k", f"unet.{K}"),
        ("native", "sdxl", "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k", f"unet.{K}"),
        ("native", "sdxl", "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k", f"unet.{K}"),
        (
            "native",
            "sdxl",
            f"conditioner.embedders.0.transformer.{Q}",
            "text_encoder.encoder.layers.0.self_attn.q_proj",
        ),
        ("ComfyUI", "sdxl", f"clip_l.transformer.{Q}", "text_encoder.encoder.layers.0.self_attn.q_proj"),
        ("ai-toolkit", "flux", f"transformer.{DOUBLE}.to_k", f"transformer.{DOUBLE}.to_k"),
        ("ai-toolkit", "sd1", f"lora_te_{Q.replace('.', '_')}", "text_encoder.encoder.layers.0.self_attn.q_proj"),
        (
            "SimpleTuner",
            "sd3",
            "transformer.transformer_blocks.0.attn.add_k_proj",
            "transformer.transformer_blocks.0.attn.add_k_proj",
        ),
        ("SimpleTuner", "sdxl", f"unet.{K}", f"unet.{K}"),
        ("diffusers", "sd1", f"unet.{K.replace('.to_k', '.processor.to_k_lora')}", f"unet.{K}"),
        ("diffusers", "sd1", K.replace(".to_k", ".processor.to_k_lora"), f"unet.{K}"),
        ("BFL", "flux", "double_blocks.0.img_attn.proj", f"transformer.{DOUBLE}.to_out.0"),
        ("BFL", "flux", "base_model.model.single_blocks.0.linear2", f"transformer.{SINGLE}.proj_out"),
        ("XLabs", "flux", "double_blocks.0.processor.proj_lora1", f"transformer.{DOUBLE}.to_out.0"),
        ("XLabs", "flux", "double_blocks.0.processor.proj_lora2", f"transformer.{DOUBLE}.to_add_out"),
        ("XLabs", "flux", "diffusion_model.single_blocks.0.processor.proj_lora", f"transformer.{SINGLE}.proj_out"),
    ],
)
def test_names_of_every_trainer(trainer, family, stem, name, tiny_folder, tmp_path) -> None:
    folder = tiny_folder(family)
    o, d = parameters(folder, name.partition(".")[0])[f"{name}.weight"].shape
    up, down = drawn(o, 2), drawn(2, d, seed=1)
    kind = (
        "up down"
        if "processor" in stem
        else "lora_B lora_A"
        if trainer in ("BFL", "SimpleTuner")
        else "lora_up lora_down"
    )
    save_file(pair(stem, up, down, kind), tmp_path / "l.safetensors")
    edit = read_foreign_edit(tmp_path / "l.safetensors", folder).edit
    assert edit.names == (f"{name}.weight",)
    assert torch.allclose(edit.delta(f"{name}.weight", torch.empty(o, d)), up @ down, atol=1e-5)


def test_xlabs_packed_maps_as_diffusers_converts_them(tiny_folder, tmp_path) -> None:
    tensors: dict[str, torch.Tensor] = {}
    for i, stem in enumerate(
        (
            "double_blocks.0.processor.qkv_lora1",
            "double_blocks.0.processor.qkv_lora2",
            "single_blocks.0.processor.qkv_lora",
        )
    ):
        tensors |= pair(stem, drawn(96, 4, seed=i), drawn(4, 32, seed=9 + i), "up down")
    save_file(tensors, tmp_path / "l.safetensors")
    edit = read_foreign_edit(tmp_path / "l.safetensors", tiny_folder("flux")).edit
    theirs = _convert_xlabs_flux_lora_to_diffusers(dict(tensors))
    wanted = {key.removesuffix(".lora_A.weight") for key in theirs if key.endswith("lora_A.weight")}
    assert {name.removesuffix(".weight") for name in edit.names} == wanted
    for module in wanted:
        delta = theirs[f"{module}.lora_B.weight"] @ theirs[f"{module}.lora_A.weight"]
        assert torch.allclose(edit.delta(f"{module}.weight", torch.empty(32, 32)), delta, atol=1e-5)


def test_bfl_biases_and_norms(tiny_folder, tmp_path) -> None:
    """BFL's control LoRAs also hold the bias of an up map, and norms as whole weights."""
    folder, o = tiny_folder("flux"), 32
    own = parameters(folder, "transformer")
    bias, norm = drawn(o), drawn(16, seed=3)
    tensors = pair("double_blocks.0.img_attn.proj", drawn(o, 2), drawn(2, o), "lora_B lora_A")
    tensors |= {
        "double_blocks.0.img_attn.proj.lora_B.bias": bias,
        "double_blocks.0.img_attn.norm.query_norm.scale": norm,
    }
    save_file(tensors, tmp_path / "l.safetensors")
    edit = read_foreign_edit(tmp_path / "l.safetensors", folder).edit
    assert torch.equal(edit.delta(f"transformer.{DOUBLE}.to_out.0.bias", bias), bias)
    name = f"transformer.{DOUBLE}.norm_q.weight"
    assert torch.equal((own[name] + edit.delta(name, own[name])).float(), norm)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_8_bit_pairs_are_read_exactly(dtype, tiny_folder, tmp_path) -> None:
    up, down = drawn(8, 2).to(dtype), drawn(2, 32).to(dtype)
    save_file(pair(STEM, up, down) | {f"{STEM}.alpha": torch.tensor(1.0).to(dtype)}, tmp_path / "l.safetensors")
    edit = read_foreign_edit(tmp_path / "l.safetensors", tiny_folder("sd1")).edit
    assert torch.equal(edit.delta(f"unet.{K}.weight", torch.empty(8, 32)), 0.5 * up.float() @ down.float())


@pytest.mark.parametrize("rank", [3, 4, 8])
def test_flux_packed_maps_at_every_rank(rank, tiny_folder, tmp_path) -> None:
    """Divisible by the number of maps or not: all maps share the lower half."""
    folder = tiny_folder("flux")
    weights = load_file(folder / "transformer/diffusion_pytorch_model.safetensors")
    n, mlp = len(weights[f"{SINGLE}.attn.to_q.weight"]), len(weights[f"{SINGLE}.proj_mlp.weight"])
    down, up = drawn(rank, n), drawn(3 * n + mlp, rank, seed=1)
    save_file(pair("lora_unet_single_blocks_0_linear1", up, down), tmp_path / "l.safetensors")
    edit, whole = read_foreign_edit(tmp_path / "l.safetensors", folder).edit, up @ down
    for i, letter in enumerate("qkv"):
        name = f"transformer.{SINGLE}.attn.to_{letter}.weight"
        assert torch.allclose(edit.delta(name, torch.zeros(n, n)), whole[i * n : (i + 1) * n], atol=1e-5)
    name = f"transformer.{SINGLE}.proj_mlp.weight"
    assert torch.allclose(edit.delta(name, torch.zeros(mlp, n)), whole[3 * n :], atol=1e-5)


def test_maps_trained_apart_are_told(tiny_folder, tmp_path) -> None:
    """kohya's split_qkv: one pair of three times the rank, with the alpha of a single one."""
    down, up = drawn(6, 32), torch.block_diag(*(drawn(32, 2, seed=i) for i in range(3)))
    stem = "lora_unet_double_blocks_0_img_attn_qkv"
    save_file(pair(stem, up, down) | {f"{stem}.alpha": torch.tensor(2.0)}, tmp_path / "l.safetensors")
    found = read_foreign_edit(tmp_path / "l.safetensors", tiny_folder("flux"))
    assert "1 modules were trained apart" in found.notes[0]
    assert "1/3 (qkv)" in found.notes[0]
    delta = found.edit.delta(f"transformer.{DOUBLE}.to_k.weight", torch.zeros(32, 32))
    assert torch.allclose(delta, 2 / 6 * (up @ down)[32:64], atol=1e-6)
    save_file(pair(stem, drawn(96, 6), down) | {f"{stem}.alpha": torch.tensor(2.0)}, tmp_path / "l.safetensors")
    assert not read_foreign_edit(tmp_path / "l.safetensors", tiny_folder("flux")).notes


R, PAIR = drawn, pair(STEM, drawn(8, 2), drawn(2, 32))
OTHER_ADAPTERS = {
    "DoRA": PAIR | {f"{STEM}.dora_scale": R(8, 1)},
    "IA3": {f"{STEM}.weight": R(8, 1), f"{STEM}.on_input": torch.tensor(False)},
    "LoHa": {f"{STEM}.hada_w1_a": R(8, 2), f"{STEM}.hada_w1_b": R(2, 32)},
    "LoKr": {f"{STEM}.lokr_w1": R(2, 2), f"{STEM}.lokr_w2": R(4, 16)},
    "OFT": {f"{STEM}.oft_blocks": R(2, 4, 4)},
    "GLoRA": {f"{STEM}.a1.weight": R(2, 32)},
    "Tucker": {f"{STEM}.lora_mid.weight": R(2, 2, 3, 3)} | PAIR,
    "LyCORIS norm": {f"{STEM}.w_norm": R(8)},
    "gated adapter": {f"{STEM}/../attention_gate.w_ks.weight": R(1, 32, 4)},
    "OneTrainer's embedding": PAIR | {"bundle_emb.x.clip_l": R(1, 32)},
    "textual inversion": {"emb_params": R(1, 32)},
    "numbered, not named": {"unet:0:up": R(8, 2), "unet:0:down": R(2, 32)},
    "half of a pair": {f"{STEM}.lora_down.weight": R(2, 32)},
    "holds alphas (1) and no pair": {f"{STEM}.alpha": torch.tensor(1.0)},
    "has an alpha and no pair": PAIR | {f"{STEM.replace('to_k', 'to_v')}.alpha": torch.tensor(1.0)},
    "has 2 elements": PAIR | {f"{STEM}.alpha": torch.ones(2)},
    "has 0 elements": PAIR | {f"{STEM}.alpha": torch.ones(0)},
    "alpha holds NaN": PAIR | {f"{STEM}.alpha": torch.tensor(float("nan"))},
    "are no matrices": {f"{STEM}.lora_up.weight": R(8), f"{STEM}.lora_down.weight": torch.tensor(1.0)},
    "no matrices": pair(STEM, R(8, 0), R(0, 32)),
    "stored as int8": pair(STEM, torch.ones(8, 2, dtype=torch.int8), R(2, 32)),
    "stored as complex64": pair(STEM, torch.ones(8, 2, dtype=torch.complex64), R(2, 32)),
    "diff has shape": {f"{STEM}.diff": torch.tensor(1.0)},
    "neither half of a LoRA pair nor a .diff, nor a weight": PAIR | {"something.else": R(2)},
    "it is for another family (FLUX.1)": pair("lora_unet_double_blocks_0_img_attn_qkv", R(8, 2), R(2, 32)),
    "in a way that is not known": pair("lora_unet_strange_place", R(8, 2), R(2, 32)),
}


@pytest.mark.parametrize(
    ("said", "tensors"), OTHER_ADAPTERS.items(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_what_cannot_be_read_says_what_it_is(said, tensors, tiny_folder, tmp_path) -> None:
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, tmp_path / "l.safetensors")
    with pytest.raises(EditError) as raised:
        read_foreign_edit(tmp_path / "l.safetensors", tiny_folder("sd1"))
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


FAMILIES_OF_NAMES = {  # a name of each family that no other has, as its published files and LoRAs hold it
    "transformer_blocks.0.img_mlp.net.0.proj": "Qwen-Image",
    "diffusion_model.blocks.0.self_attn.q": "Wan",
    "blocks.0.cross_attn.k": "Wan",
    "blocks.0.cross_attn.kv_linear": "PixArt-Sigma",
    "lora_unet_blocks_0_cross_attn_kv_linear": "PixArt-Sigma",
    "diffusion_model.noise_refiner.0.attention.qkv": "Z-Image",
    "transformer.single_transformer_blocks.0.attn.to_qkv_mlp_proj": "FLUX.2 or FLUX.2 klein",
    "diffusion_model.double_stream_modulation_img.lin": "FLUX.2 or FLUX.2 klein",
    "diffusion_model.distilled_guidance_layer.in_proj": "Chroma1",
    "diffusion_model.double_blocks.0.img_mlp.0": "FLUX.1",
    "lora_unet_joint_blocks_0_x_block_attn_qkv": "Stable Diffusion 3 and 3.5",
}


@pytest.mark.parametrize("stem", FAMILIES_OF_NAMES)
@pytest.mark.parametrize("is_lora", [True, False])
def test_a_file_of_another_family_is_said_to_be_of_that_family(stem, is_lora, tiny_folder, tmp_path) -> None:
    """And of no other, even if FLUX's names stand beside."""
    tensors = pair(stem, R(8, 2), R(2, 32)) if is_lora else {f"{stem}.weight": R(8, 32)}
    family = FAMILIES_OF_NAMES[stem]
    beside = family in ("FLUX.2 or FLUX.2 klein", "Chroma1")
    if beside:
        tensors |= {name.replace(stem, "double_blocks.0.img_attn.proj"): t.clone() for name, t in tensors.items()}
    save_file(tensors, tmp_path / "l.safetensors")
    with pytest.raises(EditError, match=rf"it is for another family \({re.escape(family)}\): give a model of that"):
        read_foreign_edit(tmp_path / "l.safetensors", tiny_folder("flux" if beside else "sd1"))


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ("[1, 2]", "no table"),
        ("3", "no table"),
        ("null", "no table"),
        ("{", "no table"),
        ("[" * 9999, "no table"),
        ('{"lora_alpha": "many"}', "bad lora_alpha"),
        ('{"lora_alpha": 1, "alpha_pattern": [1]}', "bad alpha_pattern"),
        ('{"lora_alpha": 1, "alpha_pattern": {"(": 2}}', "is no pattern"),
        ('{"lora_alpha": 1, "alpha_pattern": {"(a+)+b": 2}}', "too complex"),
        ('{"lora_alpha": 1, "alpha_pattern": {"' + ".*" * 9 + 'b": 2}}', "too complex"),
        ('{"unet.lora_alpha": {}}', "bad lora_alpha"),
    ],
)
def test_tables_that_are_none(told, said, tiny_folder, tmp_path) -> None:
    """In the header of a file, and as the config of a PEFT folder."""
    tensors = pair(f"unet.{K}", drawn(8, 2), drawn(2, 32), "lora_B lora_A")
    save_file(tensors, tmp_path / "l.safetensors", metadata={"lora_adapter_metadata": told})
    (tmp_path / "p").mkdir()
    save_file(tensors, tmp_path / "p/adapter_model.safetensors")
    (tmp_path / "p/adapter_config.json").write_text(told)
    for path in ("l.safetensors", "p"):
        with pytest.raises(EditError, match=said) as raised:
            read_foreign_edit(tmp_path / path, tiny_folder("sd1"))
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("architecture", "family"),
    [
        ("stable-diffusion-v1/lora", "sd1"),
        ("stable-diffusion-v2-768-v/lora", "sd2"),
        ("stable-diffusion-xl-v1-base/lora", "sdxl"),
        ("stable-diffusion-3.5-large/lora", "sd3"),
        ("Flux.1-dev/lora", "flux"),
    ],
)
def test_the_standards_architecture_counts(architecture, family, tiny_folder, tmp_path) -> None:
    save_file(PAIR, tmp_path / "l.safetensors", metadata={"modelspec.architecture": architecture})
    if family == "sd1":
        assert read_foreign_edit(tmp_path / "l.safetensors", tiny_folder("sd1")).edit.names == (f"unet.{K}.weight",)
        return
    with pytest.raises(EditError, match=f"its header says that it is for {family} models, base is sd1"):
        read_foreign_edit(tmp_path / "l.safetensors", tiny_folder("sd1"))


def test_a_header_that_is_json_of_another_kind(tiny_folder, tmp_path) -> None:
    save_file(
        PAIR, tmp_path / "l.safetensors", metadata={"ss_network_args": json.dumps([1]), "unconcept.family": "sd1"}
    )
    assert read_foreign_edit(tmp_path / "l.safetensors", tiny_folder("sd1")).edit.names
