"""The weights of the best epoch of a training, by a figure that the loss tells of every step (Sculpting Memory)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class BestEpoch:
    """Holds what the tensors were at the end of the epoch whose mean figure was lowest.

    Epochs of which nothing was told do not count.
    """

    tensors: Sequence[Tensor]
    epoch: int  # steps
    mean: float = math.inf  # of the best epoch so far
    best_tensors: list[Tensor] = field(default_factory=list)
    total: float = 0.0  # of the epoch that runs
    count: int = 0

    def start_step(self, step: int) -> None:
        """To be called at the beginning of each step, before its figure is told."""
        if step % self.epoch == 0:
            self._close()

    def record_figure(self, figure: float) -> None:
        """Of this step, measured before it is taken."""
        self.total, self.count = self.total + figure, self.count + 1

    @torch.no_grad()
    def restore_best(self) -> None:
        """After the last step: the tensors become those of the best epoch."""
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
