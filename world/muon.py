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
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        momentum: float = 0.95,
        decay: float = 0.01,
        rounded: bool = False,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "decay": decay})
        self.dtype = torch.bfloat16 if rounded else torch.float32

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """One update of every parameter."""
        for group in self.param_groups:
            changed = [p for p in group["params"] if p.grad is not None]
            updates = self._nesterov(changed, group["momentum"])
            shapes: dict[torch.Size, list[int]] = {}
            for number, p in enumerate(changed):
                shapes.setdefault(p.flatten(1).shape, []).append(number)
            for shape, members in shapes.items():
                size = 0.2 * max(shape) ** 0.5
                together = torch.stack([updates[i].flatten(1) for i in members])
                straight = orthogonal(together.to(self.dtype)).to(together) * size
                for i, change in zip(members, straight, strict=True):
                    updates[i] = change.view_as(changed[i])
            torch._foreach_mul_(changed, 1 - group["lr"] * group["decay"])
            torch._foreach_add_(changed, updates, alpha=-group["lr"])

    def _nesterov(self, changed: list[nn.Parameter], momentum: float) -> list[Tensor]:
        """Momenta follow the gradients; the gradients a step ahead of them."""
        for p in changed:
            if not self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
        kept, gradients = [self.state[p]["momentum"] for p in changed], [p.grad for p in changed]
        torch._foreach_lerp_(kept, gradients, 1 - momentum)
        return list(torch._foreach_lerp(gradients, kept, momentum))


def split(module: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Trained parameters: matrices inside the network for Muon, all others for AdamW."""
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    inner = {id(layer.weight) for layer in layers if min(layer.weight.flatten(1).shape) >= SMALLEST}
    trained = [p for p in module.parameters() if p.requires_grad]
    return [p for p in trained if id(p) in inner], [p for p in trained if id(p) not in inner]
