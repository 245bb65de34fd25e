"""Latents that another loop reached, from which a model goes on: of an inversion, or of another model's first steps."""

from dataclasses import dataclass

from torch import Tensor

from ...model_view import Conditioning, ModelView, SamplingStart
from .registry import procedure


@procedure("given-latents")
@dataclass(frozen=True)
class GivenLatents:
    """Goes on from latents after `done` network calls of so many steps; after all of them, they are the picture."""

    latents: Tensor  # (b, c, h, w)
    done: int
    """Network calls that led to the latents, 0 for noise."""
    steps: int
    sampler: str | None = None
    """Name of the sampler; None for the model's own."""

    def sample(
        self,
        model: ModelView,
        texts: Conditioning,
        noise: Tensor,
        steps: int,
        guidance_scale: float,
        sampler: str | None,
    ) -> Tensor:
        """Draw on from the latents; the noise is not used."""
        start = SamplingStart(self.latents, self.done)
        return model.sample(texts, start, self.steps, guidance_scale, self.sampler)
