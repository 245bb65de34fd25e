"""A distilled SDXL, of SSD-1B's kind: depth differs within a block, and the middle has no attention."""

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from safetensors.torch import load_file

from tests import tiny
from tests.cli.test_bad_models import ERASE
from tests.cli.test_cli import run

SHAPE = {
    "sample_size": 8,
    "layers_per_block": 2,
    "block_out_channels": (8, 16, 16),
    "norm_num_groups": 4,
    "cross_attention_dim": 64,
    "attention_head_dim": 2,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "mid_block_type": "UNetMidBlock2D",
    "transformer_layers_per_block": [0, [2, 2], [3, 3]],
    "reverse_transformer_layers_per_block": [[3, 3, 4], [2, 1, 1], 0],
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 80,
}


def unet_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "unet/diffusion_pytorch_model.safetensors")


@pytest.mark.slow
def test_every_export_holds_the_same_edit(tmp_path) -> None:
    """As diffusers reads kohya's file, and as the applied folder has it."""
    pipe, base = tiny.pipeline("sdxl"), tmp_path / "m"
    torch.manual_seed(0)
    pipe.register_modules(unet=UNet2DConditionModel(**SHAPE))
    pipe.save_pretrained(base)
    model, edit = ("--model", base), tmp_path / "e/edit.safetensors"
    commands = [(*ERASE, *model, "--out", tmp_path / "e"), ("apply", edit, *model, "--out", tmp_path / "applied")]
    for to in ("kohya", "single-file", "comfyui"):
        commands.append(("export", edit, *model, "--to", to, "--out", tmp_path / f"{to}.safetensors"))
    for words in commands:
        assert run(*words).exit_code == 0
    merged = StableDiffusionXLPipeline.from_pretrained(base, add_watermarker=False)
    merged.load_lora_weights(tmp_path / "kohya.safetensors")
    merged.fuse_lora()
    merged.unload_lora_weights()
    before, applied, lora = unet_of(base), unet_of(tmp_path / "applied"), merged.unet.state_dict()
    moved = {name for name in applied if not torch.equal(applied[name], before[name])}
    assert moved == {name for name in before if name.endswith(("attn2.to_k.weight", "attn2.to_v.weight"))}
    assert all(torch.allclose(applied[name], lora[name], rtol=0, atol=1e-5) for name in applied)
    result = run("import", tmp_path / "single-file.safetensors", "dog", *model, "--out", tmp_path / "back.safetensors")
    assert f"{len(moved)} of its" in result.stdout
