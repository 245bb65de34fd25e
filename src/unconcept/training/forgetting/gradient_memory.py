"""Keeps gradients from going against stored ones (Gradient Episodic Memory, arXiv:1706.08840; Scissorhands)."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from ..gradient_transforms import GradientList
from .bilevel import inner_product

_MOST_SWEEPS, _SETTLED = 1000, 1e-12  # of the weights' search; stored gradients are few


@dataclass(frozen=True)
class GradientMemory:
    """Adds stored gradients m to a gradient g that goes against one of them, until none is opposed any more.

    g' = g + sum v_i m_i is the nearest with <g', m_i> >= 0 but for a margin, as all v_i are at least `margin`.
    """

    stored: Sequence[GradientList]
    chosen: Sequence[bool]  # whether each tensor is projected; the others keep their gradients
    every: int = 10  # steps
    margin: float = 0.5
    eps: float = 1e-3  # added to the diagonal of the products <m_i, m_j>

    def gradient(self, step: int, gradients: GradientList, params: Sequence[Tensor]) -> GradientList:
        if step % self.every:
            return gradients
        g = self._chosen(gradients)
        inner = torch.tensor([inner_product(self._chosen(m), g) for m in self.stored], dtype=torch.float64)
        if bool((inner >= 0).all()):
            return gradients
        turned = list(gradients)
        for v, m in zip(self._weights(inner), self.stored, strict=True):
            for i, is_chosen in enumerate(self.chosen):
                turned[i] = turned[i] + v * m[i] if is_chosen else turned[i]
        return turned

    def after_step(self, params: Sequence[Tensor]) -> None:
        """Nothing to put right."""

    def _weights(self, inner: Tensor) -> list[float]:
        """Minimise v^T P v / 2 + v^T inner over v >= margin, entry by entry; P are the products, with `eps` added."""
        rows = [self._chosen(m) for m in self.stored]
        products = self.eps * torch.eye(len(rows), dtype=torch.float64)
        for i, j in product(range(len(rows)), repeat=2):
            products[i, j] += inner_product(rows[i], rows[j])
        v = torch.full_like(inner, self.margin)
        for _ in range(_MOST_SWEEPS):
            before = v.clone()
            for i in range(len(v)):
                others = products[i] @ v - products[i, i] * v[i]
                v[i] = torch.clamp(-(inner[i] + others) / products[i, i], min=self.margin)
            if bool((v - before).abs().max() <= _SETTLED * v.abs().max()):
                break
        found: list[float] = v.tolist()
        return found

    def _chosen(self, gradients: GradientList) -> GradientList:
        return [g for g, is_chosen in zip(gradients, self.chosen, strict=True) if is_chosen]
