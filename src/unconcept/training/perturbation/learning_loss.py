"""The loss that a personaliser descends, as a protection ascends it: the error of denoising a picture's latents."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ...models import Conditioning, ModelView
from ...models.diffusion.vae import encode_images
from ..token_search import denoising_error, training_timesteps


@dataclass(frozen=True)
class LearningLoss:
    """How badly a model denoises pictures under a text: E |prediction - target|^2 over timesteps and noise."""

    model: ModelView
    text: str = ""
    """Text under which the pictures would be learned; (inferred) empty, since nobody knows the learner's word."""
    samples: int = 4
    """Timesteps and noises drawn for each picture."""

    def __call__(self, pictures: Tensor, rng: torch.Generator) -> Tensor:
        """The loss () of pictures (b, 3, h, w) in [0, 1]; differentiable in them."""
        latents = encode_images(self.model, pictures).repeat_interleave(self.samples, 0)
        timesteps = training_timesteps(self.model)
        t = timesteps[torch.randint(len(timesteps), (len(latents),), generator=rng)].to(self.model.device)
        noise = torch.randn(latents.shape, generator=rng).to(latents)
        return denoising_error(self.model, self._rows(len(latents)), latents, noise, t).mean()

    @torch.no_grad()
    def held_out(self, picture: Tensor, seed: int, draws: int) -> float:
        """The loss of a picture (3, h, w) over draws that no protection uses; the same ones for the same seed."""
        rng = torch.Generator().manual_seed(seed)
        return sum(float(self(picture[None], rng)) for _ in range(draws)) / draws

    def _rows(self, count: int) -> Conditioning:
        return self._texts.rows(torch.zeros(count, dtype=torch.long))

    @cached_property
    def _texts(self) -> Conditioning:
        with torch.no_grad():
            return self.model.condition([self.text])
