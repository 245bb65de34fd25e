"""Image-to-image (SDEdit: Meng et al., ICLR 2022, arXiv:2108.01073): from a noised picture on."""

from dataclasses import dataclass

from torch import Tensor

from ...model_view import Conditioning, ModelView, SamplingStart
from ..sampler import Sampler
from .registry import procedure


@procedure("image-to-image")
@dataclass(frozen=True)
class ImageToImage:
    """Noises clean latents to a level, and draws on from there with the model's sampler."""

    latents: Tensor  # (b, c, h, w)
    level: float
    """Share of the steps that are made, above 0 to 1."""

    def sample(
        self,
        model: ModelView,
        texts: Conditioning,
        noise: Tensor,
        steps: int,
        guidance_scale: float,
        sampler: str | None,
    ) -> Tensor:
        """Draw from the latents, noised by `noise`."""
        loop = Sampler(model, steps, sampler)
        k = loop.begin_at(self.level)
        clean = self.latents.to(model.device, model.dtype)
        start = SamplingStart(loop.add_noise(clean, noise.to(clean), k), k)
        return model.sample(texts, start, steps, guidance_scale, sampler)
