"""FLUX.1: a joint transformer that reads T5's states and CLIP's pooled text."""

import re

from ..family import FamilySpec, TextEncoderSpec
from ..layouts.mmdit import JOINT_ATTENTION_MAP, flux_names, joint_maps

# Files of Chroma and FLUX.2 have the names of these blocks too, beside some that are their own.
_BLOCK_NAMES = re.compile(
    r"\A(?!.*(distilled_guidance_layer|to_qkv_mlp_proj|(double|single)_stream_modulation))"
    r".*(double_blocks|single_blocks|single_transformer_blocks)",
    re.DOTALL,
)

FLUX = FamilySpec(
    name="flux",
    title="FLUX.1",
    pipeline="FluxPipeline",
    denoiser="transformer",
    view="flux:FluxView",
    encoders=(
        TextEncoderSpec(
            "text_encoder",
            kind="clip",
            single_file="text_encoders.clip_l.transformer.",
            kohya="lora_te1_",
            comfyui="clip_l",
            gives_states=False,
            gives_pooled=True,
            is_unprojected=True,
        ),
        TextEncoderSpec(
            "text_encoder_2",
            kind="t5",
            single_file="text_encoders.t5xxl.transformer.",
            naming="t5",
            kohya="lora_te3_",  # kohya calls T5 the third encoder here too
            comfyui="t5xxl",
            length=512,
        ),
    ),
    required_maps=joint_maps,
    map_pattern=JOINT_ATTENTION_MAP,
    attention="joint",
    pooled_map="time_text_embed.text_embedder.linear_1.weight",
    latent_patch=2,
    denoiser_names=flux_names,
    vae_prefix="vae.",
    shared_lora="transformer",
    kohya_base="flux1",
    module_names=_BLOCK_NAMES,
    modelspec="flux-1",
)
