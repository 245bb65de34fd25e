"""What a distillation computes with: the student's rollouts, the teacher, the fake score, and the texts of a step."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...models import ModelView
from ...models.hooks.parameters import freeze_parameters
from ..goals import TextEncodings
from ..trajectories import GuidedSampler, TrajectoryPool
from .rollout import Rollout
from .scores import FakeScore, guided_clean

_POOLED_TRAJECTORIES = 64  # sampled at once


@dataclass(frozen=True)
class TextContext:
    """The texts of b rows of a step: each network may know a picture by another text."""

    captions: Sequence[str]
    """What the student draws, and the fake score learns."""
    teacher: Sequence[str]
    """What the teacher takes it for; erasing inside a distillation names something else here."""
    fake: Sequence[str]
    """What the fake score is asked for where the two are compared."""
    negative: str = ""
    """A text that the student and the teacher are led away from; "" is none."""
    weight: float = 1.0

    @classmethod
    def of(cls, captions: Sequence[str], negative: str = "", weight: float = 1.0) -> "TextContext":
        """All networks know the pictures by the same texts."""
        return cls(captions, captions, captions, negative, weight)


@dataclass
class DistillationNetworks:
    """Student, teacher and fake score. The teacher is a model of its own, or the student's from before the training."""

    rollout: Rollout
    texts: TextEncodings
    """Of the student."""
    teacher: ModelView
    teacher_texts: TextEncodings
    fake: FakeScore | None = None
    prompts: Sequence[str] = ()
    """For trajectories of the teacher, where an objective follows them."""
    trajectory_rows: int = 0
    """Latents of trajectories that the whole training needs."""
    seed: int = 0
    _pool: TrajectoryPool | None = field(default=None, init=False)

    def draw(self, context: TextContext, rng: torch.Generator) -> Tensor:
        """The student's clean latents (b, c, h, w) after a uniform number of steps; differentiable."""
        return self.rollout.mixture(self.texts(context.captions), rng)

    def teacher_clean(
        self, context: TextContext, x_t: Tensor, t: Tensor, scale: float | Tensor, is_led_away: bool = False
    ) -> Tensor:
        """The teacher's clean latents (b, c, h, w), guided away from the empty text or from the negative one."""
        away = [context.negative if is_led_away else ""] * len(x_t)
        alone = nullcontext() if self.fake is None else self.fake.alone()
        with alone, freeze_parameters([self.teacher.modules("denoiser")]):
            return guided_clean(
                self.teacher, self.teacher_texts(context.teacher), self.teacher_texts(away), x_t, t, scale
            )

    def fake_clean(self, context: TextContext, x_t: Tensor, t: Tensor, scale: float) -> Tensor:
        """The fake score's clean latents (b, c, h, w)."""
        assert self.fake is not None
        return self.fake.clean(context.fake, x_t, t, scale)

    def trajectories(self, steps: int, guidance: float) -> TrajectoryPool:
        """The teacher's trajectories under the prompts; the first call sets their steps and guidance."""
        if self._pool is None:
            sampler = GuidedSampler(self.teacher, self.teacher_texts, steps, guidance)
            self._pool = TrajectoryPool(
                sampler,
                self.prompts,
                _POOLED_TRAJECTORIES,
                self.trajectory_rows,
                self.seed,
                every=False,
                lowest=1,
                stop=steps + 1,
            )
        return self._pool
