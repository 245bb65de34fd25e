"""The joint training of a student of few steps and a fake score: one loop for every objective."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..trainables import Trainable
from ..trainer import TrainingPlan, train
from .networks import DistillationNetworks, TextContext
from .objectives import DistillationObjective
from .scores import DrawnLatents

# The texts of a step: its number and a random generator to contexts, each of which is drawn for and weighted by itself.
StepContexts = Callable[[int, torch.Generator], Sequence[TextContext]]


@dataclass
class DistillationLoss:
    """The terms of a step: the student draws for each context, the fake score learns what it drew, then the loss.

    The fake score's error is a constant to the student: what is reported has a steady size from the first step on.
    """

    nets: DistillationNetworks
    objective: DistillationObjective
    contexts: StepContexts

    def __call__(self, step: int, rng: torch.Generator) -> dict[str, Tensor]:
        contexts = self.contexts(step, rng)
        drawn = [self.objective.draw(self.nets, context, rng) for context in contexts]
        found = []
        if self.nets.fake is not None:
            pairs = zip(contexts, drawn, strict=True)
            learned = [DrawnLatents(x.detach(), c.captions, c.weight) for c, x in pairs if x is not None]
            error = self.nets.fake.learn(learned)
        for context, x in zip(contexts, drawn, strict=True):
            found.append(context.weight * self.objective.loss(self.nets, context, x, step, rng))
        terms = {"student": torch.stack(found).sum()}
        if self.nets.fake is not None:
            terms["fake"] = torch.full_like(terms["student"], error)
        return terms


def distil(
    student: Trainable, loss: DistillationLoss, plan: TrainingPlan, about: Mapping[str, object], name: str = "student"
) -> list[float]:
    """Train the student to the end of the plan, resumable in the open session; return the loss before each step.

    `about` is as for `train`; it must name the teacher's weights, because the fake score begins as them.
    """
    stateful = [] if loss.nets.fake is None else [loss.nets.fake]
    return train(student, loss, plan, about, stateful, name)
