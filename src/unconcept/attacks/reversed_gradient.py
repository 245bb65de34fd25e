"""Reversed gradient: climbs the edit's own training loss from the edited weights (after arXiv:2505.16174).

What a training has hidden, a few steps back along its gradient may show again. It needs the recipe of the edit, and no
picture of the concept. Differs: the authors reverse one loss for all methods; here it is the method's own, with its own
optimizer, rate and teacher, which is the unedited model.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..core.errors import NumericsError, require
from ..edits import DenseEdit, Edit
from ..models.families import FAMILIES
from ..training.gradient_transforms import GradientList, GradientTransform
from ..training.session import TrainingStart, current_session, training_session
from ..training.trainables import with_pristine_weights
from .registry import AttackAttempt, AttackCase, AttackInput, LadderPlace, attack


@attack(
    "reversed-gradient",
    paper="arXiv:2505.16174",
    rung="weights",
    scope="concept",
    families=FAMILIES,
    lever="own training",
    place=LadderPlace("relearning"),
)
@dataclass(frozen=True)
class ReversedGradient:
    """Climbs the loss of the edit's own training, from the edited weights.

    Defined for edits of whole weights that were trained step by step. A closed form, a rule while sampling and an
    adapter beside the weights, which begins anew, have no such loss.
    """

    steps: int = 64
    """Steps at most, a power of two: attempts are made after 1, 2, 4, ... steps."""

    def __post_init__(self) -> None:
        require(
            self.steps > 0 and self.steps & (self.steps - 1) == 0,
            f"reversed-gradient: steps must be a power of two, got {self.steps}",
        )

    @property
    def most_steps(self) -> int:
        """Steps of a search that finds nothing."""
        return self.steps

    @property
    def most_attempts(self) -> int:
        """Attempts after the first, for an estimate of the time: their steps double."""
        return self.steps.bit_length()

    def search(self, case: AttackCase) -> Iterator[AttackAttempt]:
        """Run the training again with its gradients reversed; its first training, if the method has several."""
        yield self._attempt(case, 0, None)
        stops = [2**power for power in range(self.steps.bit_length())]
        if case.retrain is None or not case.unsolved:
            for stop in stops:
                yield self._attempt(case, stop, None)
            return
        path = _Ascent(stops)
        session = replace(current_session(), folder=None, transforms=path.begin, teacher=with_pristine_weights)
        # A loss that is climbed may run away: what was found until then is tried.
        with case.edit_applied(), training_session(session), suppress(_FarEnough, NumericsError):
            case.retrain()
        for stop, edit in path.found.items():
            yield self._attempt(case, stop, edit)

    def _attempt(self, case: AttackCase, steps: int, weights: Edit | None) -> AttackAttempt:
        return AttackAttempt(steps, {i: AttackInput(case.prompts[i], weights=weights) for i in case.unsolved})


class _FarEnough(Exception):
    """Ends a training after the last stop."""


@dataclass
class _Ascent:
    """A transform that reverses gradients, and keeps the change of the weights after some steps."""

    stops: Sequence[int]
    found: dict[int, Edit] = field(default_factory=dict)
    done: int = 0
    names: tuple[str, ...] = ()
    start: list[Tensor] = field(default_factory=list)

    def begin(self, training: TrainingStart) -> Sequence[GradientTransform]:
        """Remember the weights before the training."""
        self.names = tuple(training.tensors)
        self.start = [tensor.detach().clone() for tensor in training.tensors.values()]
        return [self]

    def gradient(self, step: int, gradients: GradientList, params: Sequence[Tensor]) -> GradientList:
        return [-gradient for gradient in gradients]

    def after_step(self, params: Sequence[Tensor]) -> None:
        """Keep the change so far; end the training after the last stop."""
        self.done += 1
        if self.done in self.stops:
            sides = zip(self.names, params, self.start, strict=True)
            wide = {name: (now.detach() - then).to(_wide(then)) for name, now, then in sides}
            self.found[self.done] = DenseEdit(wide)
        if self.done == self.stops[-1]:
            raise _FarEnough


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)
