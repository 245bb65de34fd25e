"""Deterministic sampling steps from noise to a picture, on a model's own noise schedule.

DDIM without noise (Song et al., ICLR 2021) and Euler's step along a flow follow one rule: compute the clean latents and
the noise from the prediction, and mix them at the next noise level.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...core.errors import require
from ..model_view import ModelView
from .noise_schedule import NoiseSchedule
from .schedulers import named_scheduler

# Numbers of FLUX's packed rows, and the shift of its sigmas at each.
_FLUX_AREAS, _FLUX_SHIFTS = (256, 4096), (0.5, 1.15)


@dataclass(frozen=True)
class SamplingGrid:
    """Timesteps and noise levels of N sampling steps.

    `t` (N,) falls. After k steps the latents are at level k of `alpha` and `sigma` (N + 1,); level 0 is noise.
    """

    schedule: NoiseSchedule
    t: Tensor
    alpha: Tensor
    sigma: Tensor

    @classmethod
    def of(cls, model: ModelView, steps: int) -> "SamplingGrid":
        """Make the grid of the model's pipeline: DDIM's timesteps in its own spacing, or its flow's shifted sigmas."""
        require(steps > 0, f"the number of sampler steps must be > 0, got {steps}")
        own: Any = model.modules("scheduler")
        schedule = model.schedule
        if schedule.prediction_type == "flow":
            return cls._of_flow(model, own, schedule, steps)
        require(
            steps <= len(schedule.alpha),
            f"{steps} sampler steps are too many: the model has {len(schedule.alpha)} timesteps",
        )
        rule = named_scheduler("ddim", own)
        rule.set_timesteps(steps)
        t = rule.timesteps.long()
        last = float(rule.final_alpha_cumprod)
        alpha, sigma = (
            torch.cat([levels[t], torch.tensor([end], dtype=levels.dtype)])
            for levels, end in ((schedule.alpha, last**0.5), (schedule.sigma, (1 - last) ** 0.5))
        )
        return cls(schedule, t, alpha, sigma)

    @classmethod
    def _of_flow(cls, model: ModelView, own: Any, schedule: NoiseSchedule, steps: int) -> "SamplingGrid":
        """Make the grid of a flow: SD3's scheduler spaces the timesteps, FLUX's shifts even sigmas by picture size."""
        rule = type(own).from_config(own.config)
        if rule.config.use_dynamic_shifting:
            _, h, w = model.latent_shape
            slope = (_FLUX_SHIFTS[1] - _FLUX_SHIFTS[0]) / (_FLUX_AREAS[1] - _FLUX_AREAS[0])
            mu = _FLUX_SHIFTS[0] + slope * (h * w // 4 - _FLUX_AREAS[0])
            rule.set_timesteps(sigmas=torch.linspace(1, 1 / steps, steps).tolist(), mu=mu)
        else:
            rule.set_timesteps(steps)
        sigma = rule.sigmas.double()
        return cls(schedule, rule.timesteps.double(), 1 - sigma, sigma)

    def __len__(self) -> int:
        return len(self.t)

    def step(self, x: Tensor, prediction: Tensor, k: int) -> Tensor:
        """Latents (b, c, h, w) after step k + 1, from latents `x` after step k and the model's prediction at t[k]."""
        t = self.t[k].expand(len(x))
        clean, noise = self.schedule.x0(prediction, x, t), self.schedule.epsilon(prediction, x, t)
        return float(self.alpha[k + 1]) * clean + float(self.sigma[k + 1]) * noise


def is_guidance_distilled(model: ModelView) -> bool:
    """Whether guidance is distilled into the denoiser (FLUX dev), so that a single prediction is already guided."""
    config: Any = model.modules("denoiser").config
    return bool(config.get("guidance_embeds"))
