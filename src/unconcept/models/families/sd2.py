"""Stable Diffusion 2.x: the UNet of 1.x that reads OpenCLIP ViT-H/14."""

from ..family import FamilySpec, TextEncoderSpec, has_open_clip
from ..layouts.unet import CROSS_ATTENTION_MAP, UNET_MODULE_NAMES, UNetNames, unet_maps

SD2 = FamilySpec(
    name="sd2",
    title="Stable Diffusion 2.x",
    pipeline="StableDiffusionPipeline",
    is_member=has_open_clip,
    denoiser="unet",
    view="unet:UNetView",
    encoders=(
        TextEncoderSpec(
            "text_encoder",
            kind="clip",
            single_file="cond_stage_model.model.",
            naming="open_clip",
            kohya="lora_te_",
            comfyui="clip_h",
        ),
    ),
    required_maps=unet_maps,
    map_pattern=CROSS_ATTENTION_MAP,
    attention="cross",
    cuts_prompts=True,
    denoiser_names=UNetNames.of,
    vae_prefix="first_stage_model.",
    has_diffusers_loras=True,
    kohya_base="sd_v2",
    module_names=UNET_MODULE_NAMES,
    modelspec="stable-diffusion-v2",
    kohya_metadata={"ss_base_model_version": "sd_v2", "ss_v2": "True"},
)
