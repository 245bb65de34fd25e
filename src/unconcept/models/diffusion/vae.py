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
    scale = int(model.checkpoint.built_pipeline.vae_scale_factor) * _patch_side(vae)
    return model.latent_shape[1] * scale, model.latent_shape[2] * scale


def require_picture_size(model: ModelView, pictures: Tensor, source: str) -> None:
    """Raise `DataError` unless pictures (b, 3, H, W) have the model's own size."""
    (height, width), (h, w) = picture_size(model), pictures.shape[-2:]
    message = f"{source} has {w}x{h} pixels, but {model.name} draws {width}x{height}: scale or crop it to that size"
    require((h, w) == (height, width), message, DataError)


def encode_images(model: ModelView, pictures: Tensor) -> Tensor:
    """Encode pictures (b, 3, H, W) in [0, 1] as latents (b, c, h, w) in the denoiser's scale: the posterior's mean."""
    vae: Any = model.modules("vae")
    pixels = pictures.to(model.device, next(vae.parameters()).dtype) * 2 - 1
    mode: Tensor = vae.encode(_with_frame(vae, pixels)).latent_dist.mode()
    if _patch_side(vae) > 1:
        mean, deviation = _patch_statistics(vae, mode)
        return (F.pixel_unshuffle(mode, _patch_side(vae)) - mean) / deviation
    shift, scale = _latent_scale(vae, mode)
    return _without_frame(vae, (mode - shift) * scale)


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
    if _patch_side(vae) > 1:
        mean, deviation = _patch_statistics(vae, latents)
        scaled = F.pixel_shuffle(latents * deviation + mean, _patch_side(vae))
    else:
        framed = _with_frame(vae, latents)
        shift, scale = _latent_scale(vae, framed)
        scaled = framed / scale + shift
    return _without_frame(vae, vae.decode(scaled.to(next(vae.parameters()).dtype)).sample)


def _latent_scale(vae: Any, latents: Tensor) -> tuple[Tensor | float, Tensor | float]:
    """Shift and scale of latents: the denoiser's are (z - shift) * scale of the autoencoder's z."""
    mean, deviation = (vae.config.get(name) for name in ("latents_mean", "latents_std"))
    factor = vae.config.get("scaling_factor", 1.0)
    if mean is None or deviation is None:
        return vae.config.get("shift_factor") or 0.0, factor
    shape = (1, -1, *[1] * (latents.ndim - 2))  # of some SDXL's, and of Qwen-Image's
    return latents.new_tensor(mean).view(shape), factor / latents.new_tensor(deviation).view(shape)


def _with_frame(vae: Any, pictures: Tensor) -> Tensor:
    """Pictures or latents as an autoencoder of films takes them, with an axis of frames; unchanged for others."""
    return pictures.unsqueeze(2) if "z_dim" in vae.config else pictures


def _without_frame(vae: Any, pictures: Tensor) -> Tensor:
    return pictures[:, :, 0] if "z_dim" in vae.config else pictures


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
