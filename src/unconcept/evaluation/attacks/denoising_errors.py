"""How badly a model denoises given pictures: small where it still knows what they show."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ...models import ModelView
from ...training.images.training_images import images_to_latents
from ...training.trajectories import noise_latents

_TIMESTEPS = 10  # evenly spaced noise levels of each picture


@torch.no_grad()
def denoising_errors(model: ModelView, texts: Sequence[str], pictures: Tensor, seed: int = 0) -> Tensor:
    """Return the mean squared error (n,) of a model's own training target for each picture (n, 3, H, W) under its text,
    over evenly spaced timesteps. The noise is the same in each call.

    Differs: the authors' script compares with the noise over 1000, a size that no prediction has.
    """
    levels = torch.arange(_TIMESTEPS) * len(model.schedule.alpha) // _TIMESTEPS
    rng, found = torch.Generator().manual_seed(seed), []
    latents = images_to_latents(model, pictures).to(model.device, model.dtype)
    for text, x0 in zip(texts, latents, strict=True):
        states = model.condition([text] * _TIMESTEPS)
        x_t, t, wanted = noise_latents(model, x0.expand(_TIMESTEPS, *x0.shape), rng, levels)
        gap = model.denoise(x_t, t, states).double() - wanted.double()
        found.append(gap.square().mean().cpu())
    return torch.stack(found)
