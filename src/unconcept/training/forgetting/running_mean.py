"""A running mean of the trained weights, which becomes the result (GS-LoRA++)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..gradient_transforms import GradientList, move_beside


@dataclass
class RunningMean:
    """Averages the weights after each step from number `begin` on: mean = decay mean + (1 - decay) weights.

    A step's weights are read when the next one begins, so that all other transforms have settled them.
    """

    decay: float  # 0: the last weights
    begin: int = 0  # steps
    means: list[Tensor] = field(default_factory=list)

    def gradient(self, step: int, gradients: GradientList, params: Sequence[Tensor]) -> GradientList:
        if step > self.begin:
            self._add(params)
        return gradients

    def after_step(self, params: Sequence[Tensor]) -> None:
        """Nothing to put right."""

    @torch.no_grad()
    def take_means(self, params: Sequence[Tensor]) -> None:
        """Set the weights to their means. Call it after the last step."""
        self._add(params)
        for mean, param in zip(self.means, params, strict=True):
            param.copy_(mean)

    @torch.no_grad()
    def _add(self, params: Sequence[Tensor]) -> None:
        if not self.means:
            self.means = [param.detach().clone() for param in params]
        self.means = move_beside(self.means, params)
        for mean, param in zip(self.means, params, strict=True):
            mean.lerp_(param.detach(), 1 - self.decay)

    def state(self) -> Mapping[str, Tensor]:
        return {f"mean.{i}": mean for i, mean in enumerate(self.means)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.means = [state[f"mean.{i}"].clone() for i in range(len(state))]
