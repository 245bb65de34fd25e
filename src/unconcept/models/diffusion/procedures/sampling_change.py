"""Another sampler, number of steps or guidance, from the same noise."""

from dataclasses import dataclass

from torch import Tensor

from ...model_view import ModelView
from .registry import SamplingRequest, procedure


@procedure("sampling-change")
@dataclass(frozen=True)
class SamplingChange:
    """Draws from noise to the end, with settings of its own. None means as asked."""

    steps: int | None = None
    guidance_scale: float | None = None
    sampler: str | None = None

    def sample(self, model: ModelView, asked: SamplingRequest) -> Tensor:
        """Draw from the noise."""
        scale = asked.guidance_scale if self.guidance_scale is None else self.guidance_scale
        return model.sample(asked.texts, asked.noise, self.steps or asked.steps, scale, self.sampler or asked.sampler)
