"""Stable Diffusion XL: a UNet that reads CLIP ViT-L/14 and OpenCLIP bigG/14, and the latter's pooled text."""

from ..family import FamilySpec, TextEncoderSpec
from ..layouts.unet import CROSS_ATTENTION_MAP, UNET_MODULE_NAMES, UNetNames, unet_maps

SDXL = FamilySpec(
    name="sdxl",
    title="Stable Diffusion XL",
    pipeline="StableDiffusionXLPipeline",
    denoiser="unet",
    view="unet:UNetView",
    encoders=(
        TextEncoderSpec(
            "text_encoder",
            kind="clip",
            single_file="conditioner.embedders.0.transformer.",
            kohya="lora_te1_",
            comfyui="clip_l",
            is_penultimate=True,
        ),
        TextEncoderSpec(
            "text_encoder_2",
            kind="clip",
            single_file="conditioner.embedders.1.model.",
            naming="open_clip",
            kohya="lora_te2_",
            comfyui="clip_g",
            is_penultimate=True,
            gives_pooled=True,
        ),
    ),
    required_maps=unet_maps,
    map_pattern=CROSS_ATTENTION_MAP,
    attention="cross",
    cuts_prompts=True,
    denoiser_names=UNetNames.of,
    vae_prefix="first_stage_model.",
    kohya_base="sdxl",
    module_names=UNET_MODULE_NAMES,
    modelspec="stable-diffusion-xl",
    kohya_metadata={"ss_base_model_version": "sdxl_base_v1-0", "ss_v2": "False"},
)
