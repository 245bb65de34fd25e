"""Z-Image and Z-Image-Turbo: a transformer in which text and picture share all weights after a refiner of the text.

It reads Qwen3's states before the last layer, under its chat template with thinking left on, by a norm and one map.
"""

import re

from ..family import FamilySpec, TextEncoderSpec, TextTemplate
from ..layouts.zimage import z_image_maps, z_image_names

Z_IMAGE = FamilySpec(
    name="zimage",
    title="Z-Image",
    pipeline="ZImagePipeline",
    denoiser="transformer",
    view="zimage:ZImageView",
    encoders=(
        TextEncoderSpec(
            "text_encoder",
            kind="llm",
            single_file="text_encoders.qwen3_4b.transformer.",
            naming="llm",
            kohya="lora_te1_",
            comfyui="qwen3_4b",
            length=512,
            is_masked=True,
            template=TextTemplate(options={"add_generation_prompt": True, "enable_thinking": True}),
            layers=(-2,),
        ),
    ),
    required_maps=z_image_maps,
    map_pattern=re.compile(r"^cap_embedder\.1\.weight$|\.attention\.to_[kv]\.weight$"),
    attention="joint",
    states_map="cap_embedder.1.weight",
    text_projection="cap_embedder.0",
    denoiser_names=z_image_names,
    holds_denoiser_alone=True,
    vae_prefix="vae.",
    shared_lora="diffusion_model",
    kohya_base="zimage",
    modelspec="z-image",
    module_names=re.compile(r"context_refiner|noise_refiner|cap_embedder"),
)
