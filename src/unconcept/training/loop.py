"""The only file that differentiates: gradients with respect to named tensors, and the loop that follows them.

Gradients are taken with respect to what is trained alone, so no weight of the model ever gets a `.grad`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from ..core.errors import NumericsError, require

Optimizer = Literal["sgd", "adam", "adamw"]
Loss = Callable[[int, torch.Generator], Tensor]  # of the step's number; whatever it draws at random comes from the generator
OPTIMIZERS: dict[Optimizer, Callable[..., torch.optim.Optimizer]] = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


def gradient(loss: Tensor, params: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """d loss / d params, zero for what the loss does not depend on. `NumericsError` if the loss is not finite."""
    require(bool(torch.isfinite(loss)), f"the loss became {loss.item()}: use a smaller lr, or float32", NumericsError)
    return torch.autograd.grad(loss, list(params), allow_unused=True, materialize_grads=True)


@dataclass
class Descent:
    """Tensors on their way down a loss, with the optimizer's and the random generator's state: it can stop and go on.

    `params` are leaves and are changed in place.
    """

    params: Sequence[Tensor]
    lr: float
    optimizer: Optimizer = "adam"
    weight_decay: float = 0.0
    seed: int = 0
    done: int = 0  # steps so far
    rng: torch.Generator = field(init=False)
    rule: torch.optim.Optimizer = field(init=False)

    def __post_init__(self) -> None:
        require(self.lr >= 0 and self.weight_decay >= 0, f"lr and weight_decay must be >= 0, got {self.lr} and {self.weight_decay}")
        self.rng = torch.Generator().manual_seed(self.seed)
        self.rule = OPTIMIZERS[self.optimizer]([{"params": list(self.params)}], lr=self.lr, weight_decay=self.weight_decay)

    def run(self, loss: Loss, steps: int, after: Callable[[int], None] = lambda step: None, parts: int = 1) -> list[float]:
        """`steps` more steps; the loss before each of them.

        A step averages the gradients of `parts` calls of the loss. `after` is called with the number of steps done.
        """
        losses = []
        for _ in range(steps):
            total, sums = 0.0, [torch.zeros_like(p) for p in self.params]
            for _ in range(parts):
                value = loss(self.done, self.rng)
                for part, found in zip(sums, gradient(value, self.params), strict=True):
                    part += found / parts
                total += value.item() / parts
            for param, found in zip(self.params, sums, strict=True):
                param.grad = found
            self.rule.step()
            self.rule.zero_grad(set_to_none=True)
            self.done += 1
            losses.append(total)
            after(self.done)
        return losses


def minimise(
    loss: Loss,
    params: Sequence[Tensor],
    steps: int,
    lr: float,
    optimizer: Optimizer = "adam",
    *,
    weight_decay: float = 0.0,
    seed: int = 0,
    after: Callable[[int], None] = lambda step: None,
) -> list[float]:
    """A whole descent of `params`, in place; the loss before each step."""
    return Descent(params, lr, optimizer, weight_decay, seed).run(loss, steps, after)
