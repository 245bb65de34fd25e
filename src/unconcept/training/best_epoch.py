"""Keeps the weights of a training's best epoch, by a figure that the loss reports at every step (Sculpting Memory)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class BestEpoch:
    """Keeps a copy of the tensors from the end of the epoch with the lowest mean figure.

    Epochs without a figure do not count.
    """

    tensors: Sequence[Tensor]
    epoch: int  # steps
    mean: float = math.inf  # of the best epoch so far
    best_tensors: list[Tensor] = field(default_factory=list)
    total: float = 0.0  # of the current epoch
    count: int = 0

    def start_step(self, step: int) -> None:
        """Note that a step begins. Call it before `record_figure`."""
        if step % self.epoch == 0:
            self._close()

    def record_figure(self, figure: float) -> None:
        """Record the figure of this step, measured before the step is taken."""
        self.total, self.count = self.total + figure, self.count + 1

    @torch.no_grad()
    def restore_best(self) -> None:
        """Set the tensors to those of the best epoch. Call it after the last step."""
        self._close()
        for tensor, own in zip(self.tensors, self.best_tensors, strict=False):
            tensor.copy_(own)

    def _close(self) -> None:
        if self.count and self.total / self.count < self.mean:
            self.mean, self.best_tensors = self.total / self.count, [tensor.detach().clone() for tensor in self.tensors]
        self.total, self.count = 0.0, 0

    def state(self) -> Mapping[str, Tensor]:
        numbers = torch.tensor([self.mean, self.total, self.count], dtype=torch.float64)
        return {"numbers": numbers} | {f"kept.{i}": tensor for i, tensor in enumerate(self.best_tensors)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.mean, self.total, count = state["numbers"].tolist()
        self.count = int(count)
        self.best_tensors = [state[f"kept.{i}"].to(self.tensors[i].device) for i in range(len(state) - 1)]
