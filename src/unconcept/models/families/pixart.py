"""PixArt-Sigma (Chen et al., ECCV 2024): a transformer with cross-attention that reads T5's states with their mask.

Only diffusers folders are read and written, because its pipeline does not support single files.
"""

import re

from ..family import Config, FamilySpec, NamedShapes, TextEncoderSpec


def pixart_maps(config: Config) -> NamedShapes:
    """The projection of text states, and the keys and values of every block, with their shapes."""
    inner = config["num_attention_heads"] * config["attention_head_dim"]
    yield "caption_projection.linear_1.weight", (inner, config["caption_channels"])
    yield "caption_projection.linear_2.weight", (inner, inner)
    for i in range(config["num_layers"]):
        for letter in "kv":
            yield f"transformer_blocks.{i}.attn2.to_{letter}.weight", (inner, config["cross_attention_dim"])


PIXART = FamilySpec(
    name="pixart",
    title="PixArt-Sigma",
    pipeline="PixArtSigmaPipeline",
    denoiser="transformer",
    view="pixart:PixArtView",
    encoders=(TextEncoderSpec("text_encoder", kind="t5", length=300, is_masked=True, is_lowercased=True),),
    required_maps=pixart_maps,
    map_pattern=re.compile(r"^caption_projection\.linear_[12]\.weight$|\.attn2\.to_[kv]\.weight$"),
    attention="cross",
    text_projection="caption_projection",
    module_names=re.compile(r"cross_attn[._](q|kv)_linear|adaln_single|caption_projection|y_embedder[._]y_proj"),
)
