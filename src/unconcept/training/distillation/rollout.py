"""How a student of few steps draws while it is trained: as the record of the finished model says."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.errors import require
from ...models import Conditioning, ModelView
from ...models.diffusion.few_step import FewStepRecord

STEP_NUMBERS = (1, 2, 4)


def few_step_timesteps(t_init: int, steps: int) -> tuple[int, ...]:
    """The timesteps floor(t_init (1 - i / n)) of n steps, falling (SiD, arXiv:2505.12674)."""
    require(0 < steps <= t_init, f"{steps} steps from timestep {t_init}: give 1 to {t_init} steps")
    return tuple(t_init * (steps - i) // steps for i in range(steps))


def distilled_record(t_init: int, numbers: Sequence[int] = STEP_NUMBERS, teacher: str = "") -> FewStepRecord:
    """The record of a student that noises its own predictions anew and takes no guidance."""
    return FewStepRecord({n: few_step_timesteps(t_init, n) for n in numbers}, "renoise", "none", teacher)


def uniform_steps(rows: int, steps: int, rng: torch.Generator) -> Tensor:
    """A generation step (rows,) for each row: all are equally likely, and their counts differ by at most one."""
    offset = int(torch.randint(steps, (), generator=rng))
    return ((torch.arange(rows) + offset) % steps)[torch.randperm(rows, generator=rng)]


def wide(prediction: Tensor) -> Tensor:
    """A prediction in float32 at least, whatever autocast made of it."""
    return prediction.to(torch.promote_types(prediction.dtype, torch.float32))


def predict_clean(model: ModelView, x_t: Tensor, t: Tensor, texts: Conditioning) -> Tensor:
    """The clean latents (b, c, h, w) that a model predicts at x_t and timesteps t (b,)."""
    return model.schedule.x0(wide(model.denoise(x_t, t, texts)), x_t, t)


@dataclass(frozen=True)
class Rollout:
    """Draws with the student in the steps of its record: D = 0, then x = add_noise(D, fresh noise, t), D = x0(x)."""

    model: ModelView
    timesteps: tuple[int, ...]

    def mixture(self, texts: Conditioning, rng: torch.Generator) -> Tensor:
        """Clean latents (b, c, h, w), each after a uniform number of generation steps from 1 to n.

        Gradients pass the last call of each row alone; what it noises anew is a constant (inferred).
        """
        rows, steps = len(texts.states), len(self.timesteps)
        at = uniform_steps(rows, steps, rng)
        noise = torch.randn((steps, rows, *self.model.latent_shape), generator=rng).to(self.model.device)
        noise = noise.to(self.model.dtype)
        clean = torch.zeros_like(noise[0])
        with torch.no_grad():
            for k in range(steps - 1):
                left = (at > k).nonzero()[:, 0]
                if len(left):
                    clean[left] = self._step(clean[left], noise[k, left], at[left].clamp_max(k), texts.rows(left))
        # Autocast keeps casts of weights made without a gradient, and would use them with one.
        torch.clear_autocast_cache()
        return self._step(clean, noise[at, torch.arange(rows)], at, texts)

    def _step(self, clean: Tensor, noise: Tensor, k: Tensor, texts: Conditioning) -> Tensor:
        t = torch.tensor(self.timesteps)[k].to(clean.device)
        x_t = self.model.schedule.add_noise(clean, noise, t)
        return predict_clean(self.model, x_t, t, texts).to(clean.dtype)
