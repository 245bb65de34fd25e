"""Latents that another loop reached, from which a model goes on: of an inversion, or of another model's first steps."""

from dataclasses import dataclass

from torch import Tensor

from ...model_view import ModelView, SamplingStart
from ..sampler import Sampler
from .registry import SamplingRequest, procedure


@procedure("given-latents")
@dataclass(frozen=True)
class GivenLatents:
    """Goes on from latents after `done` network calls of so many steps; after all of them, they are the picture."""

    latents: Tensor  # (b, c, h, w)
    done: int | None
    """Network calls that led to the latents, 0 for noise; None for all, so that nothing is left to draw."""
    steps: int
    sampler: str | None = None
    """Name of the sampler; None for the model's own."""

    def sample(self, model: ModelView, asked: SamplingRequest) -> Tensor:
        """Draw on from the latents; the noise is not used."""
        done = len(Sampler(model, self.steps, self.sampler)) if self.done is None else self.done
        start = SamplingStart(self.latents, done)
        return model.sample(asked.texts, start, self.steps, asked.guidance_scale, self.sampler)
