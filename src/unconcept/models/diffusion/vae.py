"""Encodes pictures into latents and decodes them, with the model's own autoencoder."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...core.errors import DataError, require
from ..model_view import ModelView


def picture_size(model: ModelView) -> tuple[int, int]:
    """(H, W) in pixels of the pictures that the model draws at its own size."""
    vae: Any = model.modules("vae")
    scale = 2 ** (len(vae.config.block_out_channels) - 1) * _patch_side(vae)
    return model.latent_shape[1] * scale, model.latent_shape[2] * scale


def require_picture_size(model: ModelView, pictures: Tensor, source: str) -> None:
    """Raise `DataError` unless pictures (b, 3, H, W) have the model's own size."""
    (height, width), (h, w) = picture_size(model), pictures.shape[-2:]
    message = f"{source} has {w}x{h} pixels, but {model.name} draws {width}x{height}: scale or crop it to that size"
    require((h, w) == (height, width), message, DataError)


def encode_images(model: ModelView, pictures: Tensor) -> Tensor:
    """Encode pictures (b, 3, H, W) in [0, 1] as latents (b, c, h, w) in the denoiser's scale: the posterior's mean."""
    vae: Any = model.modules("vae")
    mean = vae.encode(pictures.to(model.device, next(vae.parameters()).dtype) * 2 - 1).latent_dist.mode()
    if _patch_side(vae) > 1:
        shift, deviation = _patch_statistics(vae, mean)
        return (F.pixel_unshuffle(mean, _patch_side(vae)) - shift) / deviation
    latents: Tensor = (mean - (vae.config.get("shift_factor") or 0.0)) * vae.config.scaling_factor
    return latents


def decode_latents(model: ModelView, latents: Tensor) -> Tensor:
    """Decode latents (b, c, h, w) into pictures (b, 3, H, W) in [0, 1]; differentiable, not rounded."""
    vae: Any = model.modules("vae")
    return (_decoded(vae, latents) / 2 + 0.5).clamp(0, 1)


def _patch_side(vae: Any) -> int:
    """Side, in cells, of the squares that the denoiser's latents hold in their channels: 2 in FLUX.2, else 1."""
    return int(vae.config.patch_size[0]) if getattr(vae, "bn", None) is not None else 1


def _patch_statistics(vae: Any, like: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (1, c, 1, 1) by which FLUX.2's patches are normalised."""
    mean, variance = (part.to(like).view(1, -1, 1, 1) for part in (vae.bn.running_mean, vae.bn.running_var))
    return mean, torch.sqrt(variance + vae.config.batch_norm_eps)


def _decoded(vae: Any, latents: Tensor) -> Tensor:
    """Pictures (b, 3, H, W), about in [-1, 1]."""
    mean, deviation = (vae.config.get(name) for name in ("latents_mean", "latents_std"))
    if _patch_side(vae) > 1:
        shift, spread = _patch_statistics(vae, latents)
        scaled = F.pixel_shuffle(latents * spread + shift, _patch_side(vae))
    elif mean is not None and deviation is not None:  # of some SDXL's
        mean, deviation = (latents.new_tensor(part).view(1, -1, 1, 1) for part in (mean, deviation))
        scaled = latents * deviation / vae.config.scaling_factor + mean
    else:
        scaled = latents / vae.config.scaling_factor + (vae.config.get("shift_factor") or 0.0)
    pixels: Tensor = vae.decode(scaled.to(next(vae.parameters()).dtype)).sample
    return pixels


@torch.no_grad()
def finish_pictures(model: ModelView, latents: Tensor) -> Tensor:
    """Decode latents (b, c, h, w) as the stock pipeline does: (b, 3, H, W) in [0, 1], float32 on the CPU.

    SDXL's autoencoder overflows in float16 and is widened; a pipeline's own watermark and safety checker are used.
    """
    pipeline = model.checkpoint.built_pipeline
    vae: Any = pipeline.vae
    if vae.dtype == torch.float16 and hasattr(pipeline, "upcast_vae") and vae.config.force_upcast:
        try:
            pixels = _decoded(vae.to(torch.float32), latents)
        finally:
            vae.to(torch.float16)
    else:
        pixels = _decoded(vae, latents)
    if getattr(pipeline, "watermark", None) is not None:
        pixels = pipeline.watermark.apply_watermark(pixels)
    refused = None
    if getattr(pipeline, "safety_checker", None) is not None:
        pixels, refused = pipeline.run_safety_checker(pixels, model.device, model.dtype)
    whole = None if refused is None else [not each for each in refused]
    images: Tensor = pipeline.image_processor.postprocess(pixels, output_type="pt", do_denormalize=whole)
    return images.float().cpu()
