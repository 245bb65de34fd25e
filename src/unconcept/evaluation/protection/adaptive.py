"""What somebody does who knows that pictures are protected: clean them, train longer, take another model."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from ...models import ModelView
from ...models.diffusion.sampler import Sampler
from ...models.diffusion.vae import encode_images, finish_pictures
from ...models.model_view import PromptGuidance
from ...protection.jpeg import compress
from ..sampling import initial_noise, spec_for

Cleaning = Callable[[ModelView, Tensor, int], Tensor]  # model, pictures (n, 3, h, w), seed: cleaned pictures
PURIFYING_LEVEL = 0.3  # of image-to-image: a share of the steps
MORE_STEPS = 10  # times as many, for a patient learner
_JPEG_QUALITY = 75


def scale_down_and_up(model: ModelView, pictures: Tensor, seed: int) -> Tensor:
    """Halve the pictures and enlarge them again, as upscalers are given them."""
    height, width = pictures.shape[-2:]
    half = F.interpolate(pictures, (max(1, height // 2), max(1, width // 2)), mode="bicubic", antialias=True)
    return F.interpolate(half, (height, width), mode="bicubic").clamp(0, 1)


def compress_all(model: ModelView, pictures: Tensor, seed: int) -> Tensor:
    """Save the pictures as JPEG of quality 75."""
    return torch.stack([compress(picture, _JPEG_QUALITY) for picture in pictures])


@torch.no_grad()
def purify(model: ModelView, pictures: Tensor, seed: int) -> Tensor:
    """Noise the pictures a little and let the model draw them clean, under the empty text (DiffPure's idea)."""
    sampler = Sampler(model, spec_for(model.name).steps)
    k = sampler.begin_at(PURIFYING_LEVEL)
    latents = encode_images(model, pictures)
    noise = torch.stack([initial_noise(seed + i, model.latent_shape) for i in range(len(pictures))]).to(latents)
    guidance = PromptGuidance(model.condition([""] * len(pictures)))
    return finish_pictures(model, sampler.denoise(sampler.add_noise(latents, noise, k), guidance, k))


CLEANINGS: Mapping[str, Cleaning] = {
    "scaled down and up": scale_down_and_up,
    "JPEG 75": compress_all,
    "purified by the model": purify,
}
