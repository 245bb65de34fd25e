"""The sampling loop of all families: from noise, from a picture or from given latents, with any scheduler.

A model's view says how its predictions are guided and how its timesteps are set; diffusers' schedulers make the steps.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any, Literal

import torch
from torch import Tensor

from ...core.errors import require
from ..model_view import ModelView, PromptGuidance
from .callbacks import SamplingCallbacks, SamplingStep, StepCallback, checked_result, running_callbacks
from .schedulers import SchedulerStepper, Stepper, prepared_scheduler


@dataclass(frozen=True)
class LoopOptions:
    """Options of one sampling loop."""

    generators: Sequence[torch.Generator] | None = None
    """Of the noise that stochastic steps add, one for each picture; None: derived from the picture's first latents."""
    callbacks: SamplingCallbacks = SamplingCallbacks()
    """The caller's own callbacks."""
    gradient: Literal["none", "all"] | int = "none"
    """Which predictions are differentiable: none, all, or that of one network call. Others are constants then."""


@dataclass(frozen=True)
class Sampler:
    """Samples from a model in N steps with a named sampler, or with the model's own.

    `k` counts network calls: latents at k = 0 are noise, at k = `len(sampler)` they are clean.
    """

    model: ModelView
    steps: int
    name: str | None = None
    eta: float = 0.0
    """DDIM's share of DDPM's noise, 0 to 1; other samplers ignore it."""
    shape: tuple[int, int, int] | None = None
    """(c, h, w) of the latents, on which the shift of a flow's timesteps depends; None: the model's own."""
    _pristine: Stepper = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        shape = self.shape or self.model.latent_shape
        scheduler = prepared_scheduler(self.model, self.name, self.steps, shape)
        object.__setattr__(self, "_pristine", SchedulerStepper(scheduler, self.eta))

    def __len__(self) -> int:
        return len(self._pristine.timesteps)

    @property
    def timesteps(self) -> Tensor:
        """The timestep of each network call (N,)."""
        return self._pristine.timesteps

    def initial_latents(self, noise: Tensor) -> Tensor:
        """Latents at k = 0 from noise (b, c, h, w) of unit variance."""
        return self._pristine.initial_latents(noise)

    def denoise(
        self,
        x: Tensor,
        guidance: PromptGuidance,
        begin: int = 0,
        stop: int | None = None,
        options: LoopOptions = LoopOptions(),
    ) -> Tensor:
        """Denoise latents x (b, c, h, w) from `begin` network calls done to `stop`; None: to the end."""
        last = len(self) if stop is None else stop
        message = f"sampling from step {begin} to {last}: give 0 <= first <= last <= {len(self)}"
        require(0 <= begin <= last <= len(self), message)
        if begin == last:
            return x
        run = deepcopy(self._pristine)
        run.begin(begin)
        generators = options.generators or step_generators(x)
        message = f"{len(generators)} generators for {len(x)} pictures: give one for each"
        require(len(generators) == len(x), message)
        with (
            torch.set_grad_enabled(options.gradient != "none"),
            running_callbacks(self.model.modules("denoiser"), options.callbacks, guidance.scale is not None) as called,
        ):
            loop = _Loop(self.model, run, guidance, generators, called, options.gradient)
            for k in range(begin, last):
                x = loop.step(x, k)
        return x


@dataclass(frozen=True)
class _Loop:
    """A running loop."""

    model: ModelView
    run: Stepper
    guidance: PromptGuidance
    generators: Sequence[torch.Generator]
    callbacks: Sequence[SamplingCallbacks]
    gradient: Literal["none", "all"] | int

    def step(self, x: Tensor, k: int) -> Tensor:
        """Make network call k and the step after it."""

        def scale_input(latents: Tensor) -> Tensor:
            return self.run.scale_input(latents, k)

        at = SamplingStep(k, self.run.timesteps[k], x, self.guidance, scale_input)
        for each in self.callbacks:
            at = replace(at, latents=_called(each.before, "before", at, at.latents))
        with torch.set_grad_enabled(self.gradient in ("all", k)):
            said = self.guidance.predict(self.model, scale_input(at.latents), at.t)
        at = replace(at, prediction=said)
        for each in self.callbacks:
            at = replace(at, prediction=_called(each.predicted, "predicted", at, said))
        assert at.prediction is not None
        at = replace(at, latents=self.run.step(at.latents, at.prediction, k, self.generators))
        for each in self.callbacks:
            at = replace(at, latents=_called(each.after, "after", at, at.latents))
        return at.latents


def _called(callback: StepCallback | None, name: str, at: SamplingStep, before: Tensor) -> Tensor:
    return before if callback is None else checked_result(callback(at), before, name, at.k)


def step_generators(latents: Tensor) -> list[torch.Generator]:
    """A generator for each picture's later noise, seeded by the bits of its latents (b, c, h, w).

    So a picture's noise depends neither on the others of its batch nor on the order in which they are drawn, and is
    independent of the noise that it starts from.
    """
    rows = latents.detach().to("cpu", torch.float32).contiguous().numpy()
    seeds = [int.from_bytes(sha256(row.tobytes()).digest()[:7], "big") for row in rows]
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def is_guidance_distilled(model: ModelView) -> bool:
    """Whether guidance is distilled into the denoiser (FLUX dev, LCM), so that a single prediction is already guided.

    Such a denoiser reads the scale.
    """
    config: Any = model.modules("denoiser").config
    return bool(config.get("guidance_embeds")) or config.get("time_cond_proj_dim") is not None
