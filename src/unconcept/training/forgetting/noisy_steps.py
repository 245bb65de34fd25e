"""Gradients clipped record by record, and noise after every step: noisy gradient descent."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...core.errors import require
from ..gradient_transforms import GradientJoin, GradientList


def clipped_record_mean(norm: float) -> GradientJoin:
    """Build a join whose terms are records: scale each gradient down to at most this norm, and average them."""
    require(norm > 0, f"clip: the norm of a record's gradient must be > 0, got {norm}")

    def join(terms: Mapping[str, GradientList]) -> GradientList:
        total: GradientList = []
        for own in terms.values():
            length = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in own]))
            scale = torch.clamp(norm / length.clamp(min=1e-30), max=1.0) / len(terms)
            total = [scale * g for g in own] if not total else [t + scale * g for t, g in zip(total, own, strict=True)]
        return total

    return join


@dataclass
class StepNoise:
    """Adds noise of a standard deviation to every weight after each step, from its own random generator."""

    deviation: float
    seed: int
    rng: torch.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.rng = torch.Generator().manual_seed(self.seed)

    def gradient(self, step: int, gradients: GradientList, params: Sequence[Tensor]) -> GradientList:
        return gradients

    @torch.no_grad()
    def after_step(self, params: Sequence[Tensor]) -> None:
        for param in params:
            param.add_(self.deviation * torch.randn(param.shape, generator=self.rng).to(param))

    def state(self) -> Mapping[str, Tensor]:
        return {"rng": self.rng.get_state()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.rng.set_state(state["rng"])
