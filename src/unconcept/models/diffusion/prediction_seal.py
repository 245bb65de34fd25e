"""Remembers a prediction of the unedited model, to notice an edit of any kind: of weights, adapters or steering."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.errors import ModelError, require
from ..model_view import ModelView

_TOLERANCE = 1e-4  # relative change of a prediction in single precision that arithmetic alone may cause
_HALF_TOLERANCE = 1e-2  # the same in half precision


@dataclass(frozen=True)
class PredictionSeal:
    """The model's prediction for noise under a text, from when it was unedited."""

    prediction: Tensor
    timestep: int
    seed: int
    text: str

    @classmethod
    def of(cls, model: ModelView, timestep: int, seed: int = 0, text: str = "") -> "PredictionSeal":
        """Record the prediction; steering shows under the text that it steers. `ModelError` if an edit is applied."""
        require(
            not model.original_weights,
            "a judge of the model's own needs the unedited model, but an edit is applied: leave its `applied` first",
            ModelError,
        )
        return cls(_predicted(model, timestep, seed, text), timestep, seed, text)

    def require_unedited(self, model: ModelView) -> None:
        """Raise `ModelError` if the model predicts something else now."""
        now = _predicted(model, self.timestep, self.seed, self.text)
        moved = float((now - self.prediction).norm() / self.prediction.norm().clamp(min=1e-12))
        tolerance = _TOLERANCE if model.dtype in (torch.float32, torch.float64) else _HALF_TOLERANCE
        require(
            moved < tolerance,
            f"the model's prediction has moved by {moved:.2g} since its judge was made: use the unedited model",
            ModelError,
        )


@torch.no_grad()
def _predicted(model: ModelView, timestep: int, seed: int, text: str) -> Tensor:
    noise = torch.randn(1, *model.latent_shape, generator=torch.Generator().manual_seed(seed))
    latents = noise.to(model.device, model.dtype)
    steps = torch.full((1,), timestep, device=model.device)
    x_t = model.schedule.add_noise(latents, latents, steps)
    return model.denoise(x_t, steps, model.condition([text])).double().cpu()
