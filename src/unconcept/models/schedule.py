"""Noise levels, and what a prediction means: noise, v and the clean picture are affine in each other at fixed (x_t, t).

With x_t = a x_0 + s eps (variance-preserving: a^2 + s^2 = 1): v = a eps - s x_0 (Salimans and Ho 2022).
Methods are written in noise predictions once; a model trained on v is converted at the boundary.
"""

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from ..core.errors import ModelError, require

Kind = Literal["epsilon", "v_prediction", "sample"]


@dataclass(frozen=True)
class Schedule:
    """`alpha` and `sigma` (T,) float64 by training timestep, and what the network predicts."""

    alpha: Tensor
    sigma: Tensor
    kind: Kind

    @classmethod
    def of(cls, scheduler: Any) -> "Schedule":
        """From a diffusers scheduler with a variance-preserving schedule."""
        require(hasattr(scheduler, "alphas_cumprod"), f"{type(scheduler).__name__} has no cumulative alphas: no noise schedule is known", ModelError)
        kind = scheduler.config.prediction_type
        require(kind in ("epsilon", "v_prediction", "sample"), f"prediction type {kind!r}: allowed are epsilon, v_prediction, sample", ModelError)
        signal = scheduler.alphas_cumprod.double()
        return cls(signal.sqrt(), (1 - signal).sqrt(), kind)

    def noised(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t (b, c, h, w) at integer timesteps t (b,)."""
        a, s = self._at(t, x0)
        return a * x0 + s * noise

    def epsilon(self, prediction: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The network's output as a noise prediction."""
        a, s = self._at(t, x_t)
        if self.kind == "epsilon":
            return prediction
        return a * prediction + s * x_t if self.kind == "v_prediction" else (x_t - a * prediction) / s

    def x0(self, prediction: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The network's output as a prediction of the clean latents."""
        a, s = self._at(t, x_t)
        if self.kind == "sample":
            return prediction
        return a * x_t - s * prediction if self.kind == "v_prediction" else (x_t - s * prediction) / a

    def output(self, epsilon: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The inverse of `epsilon`: a noise prediction as this network would have put it."""
        a, s = self._at(t, x_t)
        if self.kind == "epsilon":
            return epsilon
        return (epsilon - s * x_t) / a if self.kind == "v_prediction" else (x_t - s * epsilon) / a

    def wanted(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the network is trained to say of x_t: the noise, v, or the clean latents."""
        a, s = self._at(t, x0)
        if self.kind == "epsilon":
            return noise
        return a * noise - s * x0 if self.kind == "v_prediction" else x0

    def _at(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        t = t.to(self.alpha.device).expand(len(like))
        shape = (-1, *[1] * (like.ndim - 1))
        return tuple(values[t].to(like).view(shape) for values in (self.alpha, self.sigma))  # type: ignore[return-value]
