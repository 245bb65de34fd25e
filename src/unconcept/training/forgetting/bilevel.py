"""Bi-level training by first-order steps (BOME, arXiv:2209.08709): inner steps that are taken back, and a constraint.

Minimises f(w) while q(w) = g(w) - g(w_K) stays small, where w_K is what K inner steps on g make of w.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from ..gradient_transforms import GradientJoin, GradientList

ConstraintWeight = Literal["dynamic-barrier", "cosine"]


@dataclass
class InnerPasses:
    """Orders the steps of a training in rounds, and puts the trained tensors back after their inner steps.

    A round is `passes` inner passes of `length` steps and one outer pass. With `returns` "each", an outer pass follows
    each inner one, and every inner pass returns to the tensors from before the round, so that of a round's outer
    passes only the last is left.
    """

    tensors: Sequence[Tensor]
    passes: int
    length: int
    returns: Literal["once", "each"] = "once"
    before: list[Tensor] = field(default_factory=list)  # the tensors at the start of the round

    def steps(self, rounds: int) -> int:
        """Return the steps of so many rounds."""
        return rounds * self._round

    def start_step(self, step: int) -> bool:
        """Note that a step begins, put the tensors back where they have to be, and return whether it is an inner one.

        Call it before the step's loss is computed; called twice for a step, it does the same.
        """
        if not self.passes:
            return False
        inner = self._is_inner(step % self._round)
        if step % self._round == 0:
            self.before = [tensor.detach().clone() for tensor in self.tensors]
        elif not inner and self._is_inner(step % self._round - 1):
            with torch.no_grad():
                for tensor, own in zip(self.tensors, self.before, strict=True):
                    tensor.copy_(own)
        return inner

    @property
    def _round(self) -> int:
        outer = max(self.passes, 1) if self.returns == "each" else 1
        return (self.passes + outer) * self.length

    def _is_inner(self, place: int) -> bool:
        number = place // self.length
        return number % 2 == 0 if self.returns == "each" else number < self.passes

    def state(self) -> Mapping[str, Tensor]:
        return {f"before.{i}": tensor for i, tensor in enumerate(self.before)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.before = [state[f"before.{i}"].to(self.tensors[i].device) for i in range(len(state))]


def follow_constraint(objective: str, constraint: str, eta: float, weight: ConstraintWeight) -> GradientJoin:
    """Build the join f + lambda q of the gradients of an objective f and a constraint q; q alone in an inner step.

    dynamic-barrier: lambda = max(0, eta - <f, q> / <q, q>), so that q falls by at least eta |q|^2 (BOME); cosine:
    max(0, eta - cos(f, q)).
    """

    def join(terms: Mapping[str, GradientList]) -> GradientList:
        q = terms[constraint]
        if objective not in terms:
            return q
        f = terms[objective]
        lamb = constraint_weight(f, q, eta, weight)
        return [own + lamb * other for own, other in zip(f, q, strict=True)]

    return join


def constraint_weight(f: GradientList, q: GradientList, eta: float, weight: ConstraintWeight) -> float:
    """Return lambda >= 0; 0 where q has no gradient."""
    inner, square, length = inner_product(f, q), inner_product(q, q), inner_product(f, f)
    if square == 0:
        return 0.0
    scale = square if weight == "dynamic-barrier" else (square * length) ** 0.5
    return max(0.0, eta - (inner / scale if scale else 0.0))


def inner_product(one: GradientList, two: GradientList) -> float:
    """Return the inner product over all tensors, in float64."""
    return sum(float(torch.sum(a.double() * b.double())) for a, b in zip(one, two, strict=True))
