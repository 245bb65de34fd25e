"""FLUX.2 dev: a joint transformer that reads three hidden states of Mistral Small 3 side by side."""

import re

from ..family import FamilySpec, TextEncoderSpec, TextTemplate
from ..layouts.flux2 import flux2_maps, flux2_names
from ..layouts.mmdit import JOINT_ATTENTION_MAP

# The pipeline's own constant; a test compares it with diffusers'.
SYSTEM_MESSAGE = (
    "You are an AI that reasons about image descriptions. You give structured responses focusing on object "
    "relationships, object\nattribution and actions without speculation."
)

FLUX2 = FamilySpec(
    name="flux2",
    title="FLUX.2",
    pipeline="Flux2Pipeline",
    denoiser="transformer",
    view="flux2:Flux2View",
    encoders=(
        TextEncoderSpec(
            "text_encoder",
            kind="llm",
            single_file="text_encoders.mistral3_24b.transformer.",
            naming="llm",
            kohya="lora_te1_",
            comfyui="mistral3_24b",
            length=512,
            template=TextTemplate(system=SYSTEM_MESSAGE, removed="[IMG]"),
            layers=(10, 20, 30),
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
    kohya_base="flux_2_dev",
    modelspec="flux-2-dev",
    module_names=re.compile(r"to_qkv_mlp_proj|(double|single)_stream_modulation"),
)
