"""Muon: momentum whose matrix updates are made orthogonal (Jordan et al. 2024; scaled to AdamW's size as in
arXiv:2502.16982).

Convolutions count as matrices of (out, in x kernel). The loop gives it every matrix inside a network; biases, norms,
embeddings and layers with few inputs or outputs stay with AdamW.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ROUNDS = 5
SMALLEST = 24  # sides of a matrix


def orthogonal(matrices: Tensor) -> Tensor:
    """Nearly U V^T of each matrix U S V^T of (n, rows, columns), by Newton-Schulz rounds."""
    a, b, c = COEFFICIENTS
    is_tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if is_tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(ROUNDS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if is_tall else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, made orthogonal, with decoupled weight decay. Matrices of one shape are updated together."""

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, decay: float = 0.01
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """One update of every parameter."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[nn.Parameter]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    shapes.setdefault(p.flatten(1).shape, []).append(p)
            for shape, members in shapes.items():
                update = torch.stack([self._nesterov(p, group["momentum"]) for p in members])
                size = 0.2 * max(shape) ** 0.5
                for p, change in zip(members, orthogonal(update), strict=True):
                    p.mul_(1 - group["lr"] * group["decay"])
                    p.add_(change.view_as(p), alpha=-group["lr"] * size)

    def _nesterov(self, p: nn.Parameter, momentum: float) -> Tensor:
        state = self.state[p]
        if not state:
            state["momentum"] = torch.zeros_like(p)
        kept = state["momentum"].lerp_(p.grad, 1 - momentum)
        return p.grad.lerp(kept, momentum).flatten(1)


def split(module: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Trained parameters: matrices inside the network for Muon, all others for AdamW."""
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    inner = {id(layer.weight) for layer in layers if min(layer.weight.flatten(1).shape) >= SMALLEST}
    trained = [p for p in module.parameters() if p.requires_grad]
    return [p for p in trained if id(p) in inner], [p for p in trained if id(p) not in inner]
