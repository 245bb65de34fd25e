"""Another sampler, number of steps or guidance, from the same noise."""

from dataclasses import dataclass

from torch import Tensor

from ...model_view import Conditioning, ModelView
from .registry import procedure


@procedure("sampling-change")
@dataclass(frozen=True)
class SamplingChange:
    """Draws from noise to the end, with settings of its own. None means as asked."""

    steps: int | None = None
    guidance_scale: float | None = None
    sampler: str | None = None

    def sample(
        self,
        model: ModelView,
        texts: Conditioning,
        noise: Tensor,
        steps: int,
        guidance_scale: float,
        sampler: str | None,
    ) -> Tensor:
        """Draw from the noise."""
        scale = guidance_scale if self.guidance_scale is None else self.guidance_scale
        return model.sample(texts, noise, self.steps or steps, scale, self.sampler or sampler)
