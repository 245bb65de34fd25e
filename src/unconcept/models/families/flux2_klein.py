"""FLUX.2 klein: a joint transformer that reads three hidden states of Qwen3 side by side."""

import re

from ..family import FamilySpec, TextEncoderSpec, TextTemplate
from ..layouts.flux2 import flux2_maps, flux2_names
from ..layouts.mmdit import JOINT_ATTENTION_MAP

FLUX2_KLEIN = FamilySpec(
    name="flux2_klein",
    title="FLUX.2 klein",
    pipeline="Flux2KleinPipeline",
    denoiser="transformer",
    view="flux2:Flux2View",
    encoders=(
        TextEncoderSpec(
            "text_encoder",
            kind="llm",
            single_file="text_encoders.qwen3.transformer.",
            naming="llm",
            kohya="lora_te1_",
            comfyui="qwen3",
            length=512,
            template=TextTemplate(options={"add_generation_prompt": True, "enable_thinking": False}),
            layers=(9, 18, 27),
        ),
    ),
    required_maps=flux2_maps,
    map_pattern=JOINT_ATTENTION_MAP,
    attention="joint",
    states_map="context_embedder.weight",
    latent_patch=2,
    denoiser_names=flux2_names,
    holds_denoiser_alone=True,
    vae_prefix="vae.",
    shared_lora="original",
    kohya_base="flux_2_klein",
    modelspec="flux-2-klein",
    module_names=re.compile(r"to_qkv_mlp_proj|(double|single)_stream_modulation"),
)
