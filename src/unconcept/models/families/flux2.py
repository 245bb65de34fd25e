"""FLUX.2 dev: klein's joint transformer at another size, which reads three hidden states of Mistral Small 3."""

from dataclasses import replace

from ..family import TextEncoderSpec, TextTemplate
from .flux2_klein import FLUX2_KLEIN

# The pipeline's own constant; a test compares it with diffusers'.
SYSTEM_MESSAGE = (
    "You are an AI that reasons about image descriptions. You give structured responses focusing on object "
    "relationships, object\nattribution and actions without speculation."
)

FLUX2 = replace(
    FLUX2_KLEIN,
    name="flux2",
    title="FLUX.2",
    pipeline="Flux2Pipeline",
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
    kohya_base="flux_2_dev",
    modelspec="flux-2-dev",
)
