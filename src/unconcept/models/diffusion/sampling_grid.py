"""How a model walks from noise to a picture by its own noise schedule, one deterministic step at a time.

DDIM without noise (Song et al., ICLR 2021) and Euler's step along a flow are one rule: read the clean latents and the
noise off the prediction, and mix them anew at the next level.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...core.errors import require
from ..model_view import ModelView
from .noise_schedule import NoiseSchedule
from .schedulers import named_scheduler

# Of FLUX's packed rows: how far its sigmas are shifted at each size.
_FLUX_AREAS, _FLUX_SHIFTS = (256, 4096), (0.5, 1.15)


@dataclass(frozen=True)
class SamplingGrid:
    """`t` (N,) falling timesteps; after k of N steps the latents stand at level k of `alpha` and `sigma` (N + 1,),
    level 0 is noise.
    """

    schedule: NoiseSchedule
    t: Tensor
    alpha: Tensor
    sigma: Tensor

    @classmethod
    def of(cls, model: ModelView, steps: int) -> "SamplingGrid":
        """The timesteps at which the model's pipeline asks for predictions: DDIM's by its own spacing, or its flow's
        shifted sigmas.
        """
        require(steps > 0, f"the number of sampler steps must be > 0, got {steps}")
        own: Any = model.modules("scheduler")
        schedule = model.schedule
        if schedule.prediction_type == "flow":
            return cls._of_flow(model, own, schedule, steps)
        require(steps <= len(schedule.alpha), f"{steps} sampler steps: the model has {len(schedule.alpha)} timesteps")
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
        """SD3 spaces its own timesteps; FLUX is given even sigmas and shifts them by the size of the picture."""
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
        """Latents (b, c, h, w) after step k + 1, from those after k and what the model says of them at t[k]."""
        t = self.t[k].expand(len(x))
        clean, noise = self.schedule.x0(prediction, x, t), self.schedule.epsilon(prediction, x, t)
        return float(self.alpha[k + 1]) * clean + float(self.sigma[k + 1]) * noise


def is_guidance_distilled(model: ModelView) -> bool:
    """Whether guidance was distilled into the denoiser (FLUX dev): one prediction is guided already."""
    config: Any = model.modules("denoiser").config
    return bool(config.get("guidance_embeds"))
