"""Chroma1: FLUX.1's joint transformer without a pooled text; T5 ignores padding, whose states the transformer reads."""

import re

from ..family import FamilySpec, TextEncoderSpec
from ..layouts.chroma import chroma_names
from ..layouts.mmdit import JOINT_ATTENTION_MAP, text_stream_maps

CHROMA = FamilySpec(
    name="chroma",
    title="Chroma1",
    pipeline="ChromaPipeline",
    denoiser="transformer",
    view="chroma:ChromaView",
    encoders=(
        TextEncoderSpec(
            "text_encoder",
            kind="t5",
            single_file="text_encoders.t5xxl.transformer.",
            naming="t5",
            kohya="lora_te1_",  # ComfyUI counts the encoders that are there
            comfyui="t5xxl",
            length=512,
            is_masked=True,
            passes_padding_on=True,
        ),
    ),
    required_maps=text_stream_maps,
    map_pattern=JOINT_ATTENTION_MAP,
    attention="joint",
    text_mask_input="attention_mask",  # of text and picture
    latent_patch=2,
    denoiser_names=chroma_names,
    vae_prefix="vae.",
    shared_lora="transformer",
    kohya_base="chroma",
    module_names=re.compile(r"distilled_guidance_layer"),
    modelspec="chroma",
)
