"""Objectives of distillation to few steps, each a frozen dataclass of the numbers of its paper.

With x0 predictions y_phi of the teacher and y_psi of the fake score at x_t = a x + s eps, where x is what the student
drew, and w = mean |x - y_phi| of each row:

- SiD (arXiv:2404.04057, 2406.01561, few steps 2505.12674): (y_phi - y_psi) ((y_phi - x) - alpha (y_phi - y_psi)) / w;
- PG-SB (SNOOPI, arXiv:2412.02687): variational score distillation whose teacher is guided at a random scale;
- consistency (arXiv:2303.01469): the same clean latents from two neighbouring points of a teacher's trajectory.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, TypeVar

import torch
from torch import Tensor

from ...core.errors import require
from ...core.registry import Registry
from ...edits import SteeringEdit
from ...edits.steering_rules import Subtraction
from .networks import DistillationNetworks, TextContext
from .rollout import predict_clean
from .scores import draw_noise, draw_timesteps

_SMALLEST_DISTANCE = 1e-5  # floor of w


class DistillationObjective(Protocol):
    """Protocol of an objective: a frozen dataclass."""

    needs_fake: ClassVar[bool]

    @property
    def fake_learning(self) -> tuple[float, float]:
        """The fake score's own guidance while it learns, and the share of texts that are left empty."""

    def draw(self, nets: DistillationNetworks, context: TextContext, rng: torch.Generator) -> Tensor | None:
        """What the student draws, with its graph; None if nothing is compared with the fake score."""

    def loss(
        self, nets: DistillationNetworks, context: TextContext, x: Tensor | None, step: int, rng: torch.Generator
    ) -> Tensor:
        """The student's loss on what it drew."""


objectives: Registry[type] = Registry("distillation objective")
_Kind = TypeVar("_Kind", bound=type)


def _objective(name: str) -> Callable[[_Kind], _Kind]:
    def put(kind: _Kind) -> _Kind:
        objectives.register(name)(kind)
        return kind

    return put


def sid_loss(x: Tensor, teacher: Tensor, fake: Tensor, alpha: float) -> Tensor:
    """SiD's loss of clean latents (b, c, h, w), the mean over rows and entries; differentiable in all three."""
    gap = teacher - fake
    return (gap * ((teacher - x) - alpha * gap) / distance(x, teacher)).mean()


def score_distillation_loss(x: Tensor, teacher: Tensor, fake: Tensor) -> Tensor:
    """A loss whose gradient in x is (y_psi - y_phi) / w, divided by the number of entries; y_phi, y_psi are constants.

    Differs: SwiftBrush weighs the difference of noise predictions; that of clean latents by 1 / w is DMD's weight.
    """
    gradient = ((fake - teacher) / distance(x, teacher)).detach()
    return (gradient * x).mean()


def distance(x: Tensor, teacher: Tensor) -> Tensor:
    """w (b, 1, 1, 1), a constant."""
    return (x - teacher).detach().abs().mean((1, 2, 3), keepdim=True).clamp_min(_SMALLEST_DISTANCE)


@_objective("sid")
@dataclass(frozen=True)
class SiD:
    """Score identity distillation, data-free; both scores stay in the graph of what the student drew.

    Differs: the pictures that teach the fake score teach the student too; the authors draw twice.
    """

    needs_fake: ClassVar[bool] = True

    alpha: float = 1.0
    cfg: Literal["zero", "anti", "long-short"] = "zero"
    """zero: teacher without guidance, a fake score that reads no text; anti: a fake score under negative guidance;
    long-short: both guided at one scale."""
    scale: float = 1.5
    """Of long-short guidance; of anti guidance, whose sign is turned."""

    @property
    def fake_learning(self) -> tuple[float, float]:
        """Anti-CFG needs both sides of guidance, so half of the texts are left empty (inferred)."""
        return {"zero": (0.0, 0.0), "anti": (1.0, 0.5), "long-short": (self.scale, 0.0)}[self.cfg]

    @property
    def scales(self) -> tuple[float, float]:
        """Guidance of the teacher and of the fake score where they are compared."""
        return {"zero": (1.0, 0.0), "anti": (1.0, -self.scale), "long-short": (self.scale, self.scale)}[self.cfg]

    def draw(self, nets: DistillationNetworks, context: TextContext, rng: torch.Generator) -> Tensor:
        return nets.draw(context, rng)

    def loss(
        self, nets: DistillationNetworks, context: TextContext, x: Tensor | None, step: int, rng: torch.Generator
    ) -> Tensor:
        assert x is not None
        t = draw_timesteps(nets.teacher, len(x), rng)
        x_t = nets.teacher.schedule.add_noise(x, draw_noise(nets.teacher, x, rng), t)
        teacher_scale, fake_scale = self.scales
        teacher = nets.teacher_clean(context, x_t, t, teacher_scale)
        return sid_loss(x, teacher, nets.fake_clean(context, x_t, t, fake_scale), self.alpha)


@_objective("pg-sb")
@dataclass(frozen=True)
class PGSB:
    """SNOOPI's proper guidance: variational score distillation under a guidance scale drawn for each row.

    With `nasa` (NASA-T) the student draws while a share alpha ~ U(0, 1) of its attention to a negative text is taken
    away, and the teacher is guided away from that text. Differs: the rows of a step share it and alpha.
    """

    needs_fake: ClassVar[bool] = True
    fake_learning: ClassVar[tuple[float, float]] = (1.0, 0.0)

    lowest: float = 0.5
    highest: float = 4.0
    """Bounds of the guidance scale: 0.5 to 4 for Stable Diffusion, to 3 for PixArt-alpha."""
    nasa: bool = False

    def __post_init__(self) -> None:
        require(self.lowest <= self.highest, f"guidance from {self.lowest} to {self.highest}: give rising bounds")

    def draw(self, nets: DistillationNetworks, context: TextContext, rng: torch.Generator) -> Tensor:
        alpha = float(torch.rand((), generator=rng))
        if not self.nasa or not context.negative:
            return nets.draw(context, rng)
        with negative_attention(nets, context.negative, alpha):
            return nets.draw(context, rng)

    def loss(
        self, nets: DistillationNetworks, context: TextContext, x: Tensor | None, step: int, rng: torch.Generator
    ) -> Tensor:
        assert x is not None
        span = self.highest - self.lowest
        scale = self.lowest + span * torch.rand(len(x), generator=rng, dtype=torch.float64)
        t = draw_timesteps(nets.teacher, len(x), rng)
        with torch.no_grad():
            x_t = nets.teacher.schedule.add_noise(x, draw_noise(nets.teacher, x, rng), t)
            teacher = nets.teacher_clean(context, x_t, t, scale, is_led_away=self.nasa)
            fake = nets.fake_clean(context, x_t, t, 1.0)
        return score_distillation_loss(x, teacher, fake)


def negative_attention(nets: DistillationNetworks, negative: str, alpha: float) -> AbstractContextManager[None]:
    """Subtract alpha of the student's attention output for the negative text inside the block (NASA)."""
    model = nets.rollout.model
    states, null = nets.texts([negative]).states[0], nets.texts([""]).states[0]
    rule = Subtraction(states, null, alpha, compensate=False)
    return SteeringEdit(rule, tuple(sorted(model.text_maps()))).applied(model)


@_objective("consistency")
@dataclass(frozen=True)
class Consistency:
    """The student's clean latents at a point of a guided DDIM trajectory of the teacher are those at the next one.

    At the last point they are the latents that the trajectory ends in. No data: the trajectories are the teacher's.
    """

    needs_fake: ClassVar[bool] = False
    fake_learning: ClassVar[tuple[float, float]] = (1.0, 0.0)

    steps: int = 10
    guidance: float = 4.0
    huber: float = 0.03
    """c of the pseudo-Huber distance sqrt(d^2 + c^2) - c of each row."""

    def draw(self, nets: DistillationNetworks, context: TextContext, rng: torch.Generator) -> None:
        return None

    def loss(
        self, nets: DistillationNetworks, context: TextContext, x: Tensor | None, step: int, rng: torch.Generator
    ) -> Tensor:
        pool, student = nets.trajectories(self.steps, self.guidance), nets.rollout.model
        with torch.no_grad():
            here, wanted = pool.draw_neighbours(step, len(context.captions))
            texts = nets.texts(here.prompts)
            following = torch.tensor(here.k) + 1
            open_rows = (following < self.steps).nonzero()[:, 0]
            if len(open_rows):
                x, t = wanted[open_rows], pool.sampler.timestep(following[open_rows])
                wanted[open_rows] = predict_clean(student, x, t, texts.rows(open_rows)).to(wanted.dtype)
        torch.clear_autocast_cache()  # It holds casts of weights made without a gradient.
        said = predict_clean(student, here.x_t, here.t, texts)
        return pseudo_huber(said, wanted, self.huber)


def pseudo_huber(one: Tensor, other: Tensor, c: float) -> Tensor:
    """Mean over rows of sqrt(d^2 + c^2) - c, with d^2 the mean squared difference of a row."""
    return ((one - other).square().mean((1, 2, 3)) + c * c).sqrt().mean() - c
