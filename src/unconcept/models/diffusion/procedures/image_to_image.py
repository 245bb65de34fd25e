"""Image-to-image (SDEdit: Meng et al., ICLR 2022, arXiv:2108.01073): from a noised picture on."""

from dataclasses import dataclass

from torch import Tensor

from ...model_view import ModelView, SamplingStart
from ..sampler import Sampler
from .registry import SamplingRequest, procedure


@procedure("image-to-image")
@dataclass(frozen=True)
class ImageToImage:
    """Noises clean latents to a level, and draws on from there with the model's sampler."""

    latents: Tensor  # (b, c, h, w)
    level: float
    """Share of the steps that are made, above 0 to 1."""

    def sample(self, model: ModelView, asked: SamplingRequest) -> Tensor:
        """Draw from the latents, noised by `noise`."""
        loop = Sampler(model, asked.steps, asked.sampler)
        k = loop.begin_at(self.level)
        clean = self.latents.to(model.device, model.dtype)
        start = SamplingStart(loop.add_noise(clean, asked.noise.to(clean), k), k)
        return model.sample(asked.texts, start, asked.steps, asked.guidance_scale, asked.sampler)
