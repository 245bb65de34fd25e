"""Encodes pictures into latents and decodes them, with the model's own autoencoder."""

from typing import Any

from torch import Tensor

from ..model_view import ModelView


def picture_size(model: ModelView) -> tuple[int, int]:
    """(H, W) in pixels of the pictures that the model draws at its own size."""
    vae: Any = model.modules("vae")
    scale = 2 ** (len(vae.config.block_out_channels) - 1)
    return model.latent_shape[1] * scale, model.latent_shape[2] * scale


def encode_images(model: ModelView, pictures: Tensor) -> Tensor:
    """Encode pictures (b, 3, H, W) in [0, 1] as latents (b, c, h, w) in the denoiser's scale: the posterior's mean."""
    vae: Any = model.modules("vae")
    mean = vae.encode(pictures.to(model.device, next(vae.parameters()).dtype) * 2 - 1).latent_dist.mode()
    latents: Tensor = (mean - (vae.config.get("shift_factor") or 0.0)) * vae.config.scaling_factor
    return latents


def decode_latents(model: ModelView, latents: Tensor) -> Tensor:
    """Decode latents (b, c, h, w) into pictures (b, 3, H, W) in [0, 1]; differentiable, not rounded."""
    vae: Any = model.modules("vae")
    scaled = latents / vae.config.scaling_factor + (vae.config.get("shift_factor") or 0.0)
    pixels: Tensor = (vae.decode(scaled.to(next(vae.parameters()).dtype)).sample / 2 + 0.5).clamp(0, 1)
    return pixels
