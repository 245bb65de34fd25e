"""Inpainting: what lies outside of a mask is that of a picture, noised to each step's level and pasted after it."""

from dataclasses import dataclass

from torch import Tensor

from ...model_view import ModelView
from ..callbacks import SamplingCallbacks, SamplingStep, callbacks_on
from ..sampler import Sampler
from .registry import SamplingRequest, procedure


@procedure("inpainting")
@dataclass(frozen=True)
class Inpainting:
    """Draws inside of a mask, from noise, with a denoiser that need not be trained for it."""

    latents: Tensor  # (b, c, h, w): clean
    mask: Tensor  # (b, 1, h, w): 1 where new content is drawn, 0 where the picture stays

    def sample(self, model: ModelView, asked: SamplingRequest) -> Tensor:
        """Draw from the noise, by which the picture is noised too."""
        loop = Sampler(model, asked.steps, asked.sampler)
        clean, own, mask = (part.to(model.device, model.dtype) for part in (self.latents, asked.noise, self.mask))

        def paste(at: SamplingStep) -> Tensor:
            known = loop.add_noise(clean, own, at.k + 1) if at.k + 1 < len(loop) else clean
            return mask * at.latents + (1 - mask) * known.to(at.latents)

        with callbacks_on(model.modules("denoiser"), SamplingCallbacks(after=paste)):
            return model.sample(asked.texts, asked.noise, asked.steps, asked.guidance_scale, asked.sampler)
