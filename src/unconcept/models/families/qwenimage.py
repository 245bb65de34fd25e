"""Qwen-Image: a joint transformer that reads Qwen2.5-VL's last states under a template, whose first 34 are dropped."""

import re

from ..family import FamilySpec, TextEncoderSpec, TextTemplate
from ..layouts.qwenimage import qwen_image_maps, qwen_image_names

_SYSTEM = (
    "Describe the image by detailing the color, shape, size, texture, quantity, text, spatial relationships of the"
    " objects and background:"
)

QWEN_IMAGE = FamilySpec(
    name="qwenimage",
    title="Qwen-Image",
    pipeline="QwenImagePipeline",
    denoiser="transformer",
    view="qwenimage:QwenImageView",
    encoders=(
        TextEncoderSpec(
            "text_encoder",
            kind="llm",
            single_file="text_encoders.qwen25_7b.transformer.",
            naming="llm",
            kohya="lora_te1_",
            comfyui="qwen25_7b",
            length=512,  # of the stock call, which cuts longer prompts; its encode_prompt takes up to 1024
            is_masked=True,
            template=TextTemplate(
                f"<|im_start|>system\n{_SYSTEM}<|im_end|>\n<|im_start|>user\n{{}}<|im_end|>\n<|im_start|>assistant\n",
                cut=34,
            ),
            layers=(-1,),
        ),
    ),
    required_maps=qwen_image_maps,
    map_pattern=re.compile(r"^txt_in\.weight$|\.attn\.(add_[kv]_proj|to_[kv])\.weight$"),
    attention="joint",
    states_map="txt_in.weight",
    text_projection="txt_norm",
    text_mask_input="encoder_hidden_states_mask",
    latent_patch=2,
    guided_square=2,
    denoiser_names=qwen_image_names,
    holds_denoiser_alone=True,
    vae_prefix="vae.",
    shared_lora="transformer",
    kohya_base="qwen_image",
    modelspec="qwen-image",
    module_names=re.compile(r"transformer_blocks[._]\d+[._](img|txt)_(mlp|mod)|txt_norm"),
)
