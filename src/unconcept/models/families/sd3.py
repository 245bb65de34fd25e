"""Stable Diffusion 3 and 3.5: a joint transformer that reads rows of two concatenated CLIP states, then T5's rows."""

import re

from ..family import FamilySpec, TextEncoderSpec
from ..layouts.mmdit import JOINT_ATTENTION_MAP, joint_maps, sd3_names

SD3 = FamilySpec(
    name="sd3",
    title="Stable Diffusion 3 and 3.5",
    pipeline="StableDiffusion3Pipeline",
    denoiser="transformer",
    view="sd3:SD3View",
    encoders=(
        TextEncoderSpec(
            "text_encoder",
            kind="clip",
            single_file="text_encoders.clip_l.transformer.",
            kohya="lora_te1_",
            comfyui="clip_l",
            is_penultimate=True,
            gives_pooled=True,
            is_unprojected=True,
        ),
        TextEncoderSpec(
            "text_encoder_2",
            kind="clip",
            single_file="text_encoders.clip_g.transformer.",
            kohya="lora_te2_",
            comfyui="clip_g",
            is_penultimate=True,
            gives_pooled=True,
        ),
        TextEncoderSpec(
            "text_encoder_3",
            kind="t5",
            single_file="text_encoders.t5xxl.transformer.",
            naming="t5",
            kohya="lora_te3_",
            comfyui="t5xxl",
            length=256,
            is_optional=True,
        ),
    ),
    required_maps=joint_maps,
    map_pattern=JOINT_ATTENTION_MAP,
    attention="joint",
    pooled_map="time_text_embed.text_embedder.linear_1.weight",
    denoiser_names=sd3_names,
    vae_prefix="first_stage_model.",
    shared_lora="transformer",
    kohya_base="sd3",
    module_names=re.compile(r"joint_blocks|context_block"),
    modelspec="stable-diffusion-3",
)
