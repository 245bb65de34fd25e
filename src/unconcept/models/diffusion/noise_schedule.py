"""Noise levels, and conversion between predictions of noise, v, flow and the clean picture.

At fixed (x_t, t) each of them is affine in the others. With x_t = a x_0 + s eps: v = a eps - s x_0 if variance is
preserved, a^2 + s^2 = 1 (Salimans and Ho 2022); flow = eps - x_0 on the straight path, a + s = 1 (Liu et al. 2022).
Methods use noise predictions only; this module converts the predictions of other models.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ...core.errors import ModelError, require

PredictionType = Literal["epsilon", "v_prediction", "sample", "flow"]


@dataclass(frozen=True)
class NoiseSchedule:
    """`alpha` and `sigma` (T,) float64 by training timestep, and the type of the network's prediction.

    A flow's timestep is 1000 sigma, from 0 (clean) to 1000 (noise); the distribution of training timesteps is not part
    of it.
    """

    alpha: Tensor
    sigma: Tensor
    prediction_type: PredictionType

    @classmethod
    def of(cls, scheduler: Any) -> "NoiseSchedule":
        """Make it from a diffusers scheduler with cumulative alphas, or for flow matching."""
        if hasattr(scheduler, "scale_noise"):  # Only flow-matching schedulers have this method.
            sigma = torch.linspace(0, 1, scheduler.config.num_train_timesteps + 1, dtype=torch.float64)
            return cls(1 - sigma, sigma, "flow")
        require(
            hasattr(scheduler, "alphas_cumprod"),
            f"{type(scheduler).__name__} has no cumulative alphas, so its noise schedule is unknown: give the model a"
            " scheduler with `alphas_cumprod`, or for flow matching",
            ModelError,
        )
        kind = scheduler.config.prediction_type
        require(
            kind in ("epsilon", "v_prediction", "sample"),
            f"prediction type {kind!r}: allowed are epsilon, v_prediction, sample",
            ModelError,
        )
        signal = scheduler.alphas_cumprod.double()
        return cls(signal.sqrt(), (1 - signal).sqrt(), kind)

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t (b, c, h, w) at timesteps t (b,), which are whole numbers except for a flow."""
        a, s = self._at(t, x0)
        return a * x0 + s * noise

    def epsilon(self, prediction: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The network's output as a noise prediction."""
        a, s = self._at(t, x_t)
        match self.prediction_type:
            case "epsilon":
                return prediction
            case "v_prediction":
                return a * prediction + s * x_t
            case "sample":
                return (x_t - a * prediction) / s
            case "flow":
                return x_t + a * prediction

    def x0(self, prediction: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The network's output as a prediction of the clean latents."""
        a, s = self._at(t, x_t)
        match self.prediction_type:
            case "epsilon":
                return (x_t - s * prediction) / a
            case "v_prediction":
                return a * x_t - s * prediction
            case "sample":
                return prediction
            case "flow":
                return x_t - s * prediction

    def prediction_of(self, epsilon: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The inverse of `epsilon`: a noise prediction in the network's own prediction type.

        Undefined at pure noise.
        """
        a, s = self._at(t, x_t)
        match self.prediction_type:
            case "epsilon":
                return epsilon
            case "v_prediction":
                return (epsilon - s * x_t) / a
            case "sample":
                return (x_t - s * epsilon) / a
            case "flow":
                return (epsilon - x_t) / a

    def epsilon_factor(self, t: Tensor, like: Tensor) -> Tensor:
        """What the difference of two predictions at one x_t is multiplied by to be that of two noise predictions.

        Broadcasts over predictions `like` (b, c, h, w). A sampler's timestep between two of the training is rounded.
        """
        a, s = self._at(t if self.prediction_type == "flow" else t.round().long(), like)
        match self.prediction_type:
            case "epsilon":
                return torch.ones_like(a)
            case "sample":
                return -a / s
            case "v_prediction" | "flow":
                return a

    def training_target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The target of the network's training loss at x_t: the noise, v, the clean latents, or the flow."""
        a, s = self._at(t, x0)
        match self.prediction_type:
            case "epsilon":
                return noise
            case "v_prediction":
                return a * noise - s * x0
            case "sample":
                return x0
            case "flow":
                return noise - x0

    def _at(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        t = t.to(self.alpha.device).expand(len(like))
        shape = (-1, *[1] * (like.ndim - 1))
        if self.prediction_type == "flow":  # Linear in t, so that a sampler's timesteps need not be whole.
            sigma = t.double() / (len(self.sigma) - 1)
            return (1 - sigma).to(like).view(shape), sigma.to(like).view(shape)
        return self.alpha[t].to(like).view(shape), self.sigma[t].to(like).view(shape)
