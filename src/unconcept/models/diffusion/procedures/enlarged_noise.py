"""Stochastic sampling with enlarged noise: the noise-based probe of Lu et al., NeurIPS 2025, arXiv:2505.17013."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ...model_view import ModelView
from ..callbacks import SamplingCallbacks, SamplingStep, callbacks_on
from ..sampler import Sampler
from ..schedulers import named_scheduler
from .registry import SamplingRequest, procedure

_Levels = tuple[float, float]  # a and s of x_t = a x_0 + s eps


@procedure("enlarged-noise")
@dataclass(frozen=True)
class EnlargedNoise:
    """DDIM's steps with more noise than DDPM's; eta 0 is DDIM itself, eta 1 and variance scale 1 are DDPM.

    x' = a' x_0 + sqrt(|s'^2 - (eta sigma)^2|) eps + v eta sigma N(0, I), with x_0 and eps as predicted, and DDPM's
    sigma. (inferred) Along a flow a = 1 - s, and sigma is the posterior's standard deviation at its levels.
    """

    seeds: Tensor  # (b,) int64, of the noise that is added
    eta: float
    """Share of DDPM's noise, >= 0."""
    variance_scale: float = 1.0
    """v: factor of the noise added, which 1 keeps at the schedule's level."""

    def sample(self, model: ModelView, asked: SamplingRequest) -> Tensor:
        """Draw from the noise in so many steps of DDIM, or of the flow's own scheduler; `sampler` is not read."""
        name = None if model.schedule.prediction_type == "flow" else "ddim"
        if self.eta == 0:
            return model.sample(asked.texts, asked.noise, asked.steps, asked.guidance_scale, name)
        _, c, h, w = asked.noise.shape
        levels = step_levels(model, Sampler(model, asked.steps, name, shape=(c, h, w)), asked.steps)
        generators = [torch.Generator().manual_seed(seed) for seed in self.seeds.tolist()]
        before: list[Tensor] = []

        def remember(at: SamplingStep) -> None:
            before[:] = [at.latents]

        def step(at: SamplingStep) -> Tensor:
            assert at.prediction is not None
            fresh = torch.stack([torch.randn((c, h, w), generator=rng) for rng in generators])
            return self._step(model, before[0], at.prediction, at.t, levels[at.k], fresh)

        with callbacks_on(model.modules("denoiser"), SamplingCallbacks(before=remember, after=step)):
            return model.sample(asked.texts, asked.noise, asked.steps, asked.guidance_scale, name)

    def _step(
        self,
        model: ModelView,
        x: Tensor,
        prediction: Tensor,
        t: Tensor,
        levels: tuple[_Levels, _Levels],
        fresh: Tensor,
    ) -> Tensor:
        """Latents (b, c, h, w) after a step, from those before it."""
        rows, wide = t.expand(len(x)), torch.promote_types(x.dtype, torch.float32)
        clean = model.schedule.x0(prediction.to(wide), x.to(wide), rows)
        noise = model.schedule.epsilon(prediction.to(wide), x.to(wide), rows)
        (_, (a, s)), added = levels, self.eta * posterior_deviation(*levels)
        found = a * clean + abs(s * s - added * added) ** 0.5 * noise
        noisy: Tensor = found + self.variance_scale * added * fresh.to(found)
        return noisy.to(x.dtype)


def step_levels(model: ModelView, loop: Sampler, steps: int) -> Sequence[tuple[_Levels, _Levels]]:
    """The levels before and after each step of DDIM's, or of a flow's, sampler."""
    schedule, t = model.schedule, [float(each) for each in loop.timesteps]
    if schedule.prediction_type == "flow":
        sigmas = [each / (len(schedule.sigma) - 1) for each in t] + [0.0]
        return list(pairwise((1 - sigma, sigma) for sigma in sigmas))
    last = float(named_scheduler("ddim", model.modules("scheduler")).final_alpha_cumprod)

    def at(timestep: int) -> _Levels:
        if timestep < 0:
            return last**0.5, (1 - last) ** 0.5
        return float(schedule.alpha[timestep]), float(schedule.sigma[timestep])

    gap = len(schedule.alpha) // steps
    return [(at(int(here)), at(int(here) - gap)) for here in t]


def posterior_deviation(here: _Levels, after: _Levels) -> float:
    """Standard deviation of q(x_after | x_here, x_0): DDPM's sigma."""
    (a, s), (a_after, s_after) = here, after
    spread = s * s - (a / a_after * s_after) ** 2
    return float(s_after / s * max(spread, 0.0) ** 0.5)
