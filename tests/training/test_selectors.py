"""The counts of the papers, on the real configs of SD 1.4, SDXL and FLUX with no numbers in them."""

from functools import cache

import pytest
import torch
from diffusers import FluxTransformer2DModel, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from tests import tiny
from unconcept.core.errors import SettingsError
from unconcept.models.hooks.modules import denoiser_parameters
from unconcept.training.parameter_groups import select_parameters, select_text_parameters

SD14 = {"cross_attention_dim": 768, "sample_size": 64}  # The rest are the class's defaults: they are SD 1.x's.
SDXL = {
    "sample_size": 128,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (320, 640, 1280),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}


@cache
def parameters(name):
    with torch.device("meta"):
        if name == "text":
            return {
                f"text_encoder.{n}": p
                for n, p in CLIPTextModel(
                    CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12)
                ).named_parameters()
            }
        if name == "flux":
            return {
                f"transformer.{n}": p
                for n, p in FluxTransformer2DModel(num_layers=2, num_single_layers=3).named_parameters()
            }
        return {f"unet.{n}": p for n, p in UNet2DConditionModel(**(SD14 if name == "sd1" else SDXL)).named_parameters()}


def counted(name, which, select=select_parameters):
    found = select(parameters(name), which)
    return len(found), sum(parameters(name)[n].numel() for n in found)


@pytest.mark.parametrize(
    ("which", "tensors", "millions"),
    [
        ("full", 686, 859.5),
        ("xattn", 80, 43.96),
        ("kv", 32, 19.17),
        ("attn", 160, 93.5),
        ("noxattn", 598, 813.5),
        ("maps-noxattn", 388, 815.4),
        ("transformer-maps", 192, None),
        ("selfattn", 80, None),
        ("q-selfattn", 96, None),
        ("notime", 678, None),
        ("xlayer", 10, None),
        ("selflayer", 10, None),
    ],
)
def test_sd14(which, tensors, millions) -> None:
    found, numbers = counted("sd1", which)
    assert found == tensors
    assert millions is None or numbers / 1e6 == pytest.approx(millions, abs=0.05)


@pytest.mark.parametrize(("which", "tensors"), [("xattn", 70 * 5), ("kv", 140), ("transformer-maps", 722)])
def test_sdxl(which, tensors) -> None:
    assert counted("sdxl", which)[0] == tensors


def test_rank_one_adapters_on_the_transformers_have_spms_size() -> None:
    for name, size in (("sd1", 423_936), ("sdxl", 2_659_840)):
        assert (
            sum(
                sum(parameters(name)[n].flatten(1).shape)
                for n in select_parameters(parameters(name), "transformer-maps")
            )
            == size
        )


def test_sdxl_trains_no_embedding_and_nothing_outside_of_its_blocks() -> None:
    found = select_parameters(parameters("sdxl"), "maps-noxattn")
    assert not [n for n in found if "emb" in n.partition(".")[2] or "block" not in n or ".attn2." in n]
    assert not [n for n in found if "norm" in n]


@pytest.mark.parametrize(
    ("which", "tensors", "millions"),
    [("text-full", 194, None), ("text-mlp-lastattn", 56, 59.0), ("text-tokens", 1, 37.9)],
)
def test_clip_text(which, tensors, millions) -> None:
    found, numbers = counted("text", which, select_text_parameters)
    assert found == tensors
    assert millions is None or numbers / 1e6 == pytest.approx(millions, abs=0.05)


def test_a_text_encoder_may_carry_the_older_prefix() -> None:
    old = {n.replace("text_encoder.", "text_encoder.text_model."): p for n, p in parameters("text").items()}
    assert len(select_text_parameters(old, "text-mlp-lastattn")) == 56


def test_joint_transformers() -> None:
    """Two double blocks and three single ones: text has eight tensors in a double block, keys and values four."""
    assert counted("flux", "xattn")[0] == 2 * 8
    assert counted("flux", "kv")[0] == 2 * 4
    assert counted("flux", "selfattn")[0] == 2 * 8 + 3 * 6
    assert counted("flux", "attn")[0] == 2 * 16 + 3 * 6
    assert counted("flux", "transformer-maps")[0] == 2 * 12 + 3 * 5
    sd35 = denoiser_parameters(tiny.shared("sd3"))
    assert any(".attn2." in name for name in sd35)
    assert not any(".attn2." in name for name in select_parameters(sd35, "xattn"))
    with pytest.raises(SettingsError, match="joint"):
        select_parameters(sd35, "noxattn")
    assert select_parameters(sd35, "noxattn", joint="attn") == select_parameters(sd35, "attn")


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_groups_share_nothing_and_leave_nothing(family) -> None:
    """All maps are those of cross-attention and the others."""
    own = denoiser_parameters(tiny.shared(family))
    every, others, cross = ({*select_parameters(own, which)} for which in ("maps", "maps-noxattn", "xattn"))
    assert not others & cross
    assert every == others | cross
