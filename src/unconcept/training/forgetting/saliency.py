"""Saliency of weights for pictures: gradients of a loss, summed over steps that change nothing (SNIP, SalUn)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..gradient_transforms import GradientList, move_beside
from ..loop import StepLoss
from ..session import current_session, training_session
from ..trainables import Trainable
from ..trainer import TrainingPlan, train


@dataclass
class GradientSums:
    """Sums the gradients of steps, or their magnitudes, and takes none of the steps."""

    of_magnitudes: bool = False
    sums: list[Tensor] = field(default_factory=list)

    def gradient(self, step: int, gradients: GradientList, params: Sequence[Tensor]) -> GradientList | None:
        if not self.sums:
            self.sums = [torch.zeros_like(g) for g in gradients]
        self.sums = move_beside(self.sums, gradients)
        for total, g in zip(self.sums, gradients, strict=True):
            total += g.abs() if self.of_magnitudes else g
        return None

    def after_step(self, params: Sequence[Tensor]) -> None:
        """Nothing to put right."""

    def state(self) -> Mapping[str, Tensor]:
        return {f"sum.{i}": total for i, total in enumerate(self.sums)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.sums = [state[f"sum.{i}"].clone() for i in range(len(state))]


def sum_gradients(
    trained: Trainable,
    loss: StepLoss,
    plan: TrainingPlan,
    about: Mapping[str, object],
    name: str,
    of_magnitudes: bool = False,
) -> list[Tensor]:
    """Sum the gradients of a loss over all steps of a plan, in the order of the trained tensors.

    It is a training of its own that leaves the tensors alone: it goes on after a kill and reports progress. No
    regulariser and no augmentation of samples changes what it sums.
    """
    here, found = current_session(), GradientSums(of_magnitudes)
    options = replace(here.options, random_erasing=0.0, dom=0.0)
    with training_session(replace(here, transforms=lambda start: (), about=None, options=options)):
        train(trained, loss, replace(plan, transforms=[found]), about, name=name)
    tensors = list(trained.tensors.values())
    # A plan of no steps has no gradient.
    return move_beside(found.sums or [torch.zeros_like(tensor) for tensor in tensors], tensors)
