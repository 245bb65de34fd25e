"""Stable Diffusion 1.x: a UNet that reads CLIP ViT-L/14."""

from ..family import FamilySpec, TextEncoderSpec, has_open_clip
from ..layouts.unet import CROSS_ATTENTION_MAP, UNET_MODULE_NAMES, UNetNames, unet_maps

SD1 = FamilySpec(
    name="sd1",
    title="Stable Diffusion 1.x",
    pipeline="StableDiffusionPipeline",
    is_member=lambda unet, text_encoder: not has_open_clip(unet, text_encoder),
    denoiser="unet",
    view="unet:UNetView",
    encoders=(
        TextEncoderSpec(
            "text_encoder",
            kind="clip",
            single_file="cond_stage_model.transformer.",
            kohya="lora_te_",
            comfyui="clip_l",
        ),
    ),
    required_maps=unet_maps,
    map_pattern=CROSS_ATTENTION_MAP,
    attention="cross",
    cuts_prompts=True,
    denoiser_names=UNetNames.of,
    vae_prefix="first_stage_model.",
    has_diffusers_loras=True,
    kohya_base="sd_v1",
    module_names=UNET_MODULE_NAMES,
    modelspec="stable-diffusion-v1",
    kohya_metadata={"ss_base_model_version": "sd_v1", "ss_v2": "False"},
)
