"""The sampling loop of all families: from noise, from a picture or from given latents, with any scheduler.

A model's view says how its predictions are guided and how its timesteps are set; diffusers' schedulers make the steps.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Literal

import torch
from torch import Tensor

from ...core.errors import require
from ..model_view import ModelView, PromptGuidance
from .callbacks import SamplingCallbacks, SamplingStep, run_callback, running_callbacks
from .overshoot import OVERSHOOT, OVERSHOOT_SAMPLERS, OvershootStepper
from .schedulers import RenoiseStepper, SchedulerStepper, Stepper, prepared_scheduler


@dataclass(frozen=True)
class LoopOptions:
    """Options of one sampling loop."""

    generators: Sequence[torch.Generator] | None = None
    """Of the noise that stochastic steps add, one for each picture; None: derived from the picture's first latents."""
    residuals: Tensor | None = None
    """(N, b, c, h, w): added after the step of each call in place of its noise."""
    focus: Tensor | None = None
    """(b, l) bool: the text states of the words that `amo` writes."""
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
    overshoot: float = OVERSHOOT
    """How far `overshoot` and `amo` go past each step, in lengths of the step, from 0 (Euler's steps)."""
    shape: tuple[int, int, int] | None = None
    """(c, h, w) of the latents, on which the shift of a flow's timesteps depends; None: the model's own."""
    _pristine: Stepper = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        require(0 <= self.eta <= 1, f"eta {self.eta}: give 0 (no noise) to 1 (DDPM's)")
        require(self.overshoot >= 0, f"overshoot {self.overshoot}: give 0 (Euler's steps) or more")
        object.__setattr__(self, "_pristine", self._stepper())

    def _stepper(self) -> Stepper:
        model, record = self.model, self.model.few_step
        if record is not None:
            legal = record.legal_timesteps(model.name, self.steps, self.name)
            if record.step == "renoise":
                is_flow = model.schedule.prediction_type == "flow"
                return RenoiseStepper(
                    model.schedule, torch.tensor(legal, dtype=torch.double if is_flow else torch.long)
                )
        scheduler = prepared_scheduler(model, self.name, self.steps, self.shape or model.latent_shape)
        if record is not None:
            record.require_timesteps(model.name, scheduler.timesteps)
        if self.name in OVERSHOOT_SAMPLERS:
            return OvershootStepper(scheduler, c=self.overshoot, is_masked=self.name == "amo")
        return SchedulerStepper(scheduler, self.eta)

    def __len__(self) -> int:
        return len(self._pristine.timesteps)

    @property
    def timesteps(self) -> Tensor:
        """The timestep of each network call (N,)."""
        return self._pristine.timesteps

    def initial_latents(self, noise: Tensor) -> Tensor:
        """Latents at k = 0 from noise (b, c, h, w) of unit variance."""
        return self._pristine.initial_latents(noise)

    def add_noise(self, latents: Tensor, noise: Tensor, k: int) -> Tensor:
        """Latents at k of a picture with these clean latents (b, c, h, w)."""
        require(0 <= k < len(self), f"start step {k}: give 0 (noise) to {len(self) - 1}")
        return deepcopy(self._pristine).add_noise(latents, noise, k)

    def begin_at(self, level: float) -> int:
        """The k from which a picture noised to this level is drawn: image-to-image's strength, from above 0 to 1.

        `level` is the share of the steps that are made, rounded down, or for a flow up, as in diffusers' pipelines.
        """
        is_flow, whole = self.model.schedule.prediction_type == "flow", self.steps
        share = level if 0 < level <= 1 else 0.0
        left = int(whole - whole * share) if is_flow else whole - int(whole * share)
        require(left < whole, f"start level {level}: give {1 / whole:.3g} (one of {whole} steps) to 1 (all of them)")
        return left * self._pristine.order

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
        extra = options.residuals
        message = (
            f"residuals have shape {tuple(extra.shape) if extra is not None else ()}: give {(len(self), *x.shape)}"
        )
        require(extra is None or extra.shape == (len(self), *x.shape), message)
        negatives = len(x) if guidance.scale is not None else 0
        with (
            torch.set_grad_enabled(options.gradient != "none"),
            running_callbacks(self.model.modules("denoiser"), options.callbacks, negatives) as called,
        ):
            for each in called:
                guidance = guidance if each.guide is None else each.guide(guidance)
            loop = _Loop(self.model, run, guidance, generators, called, options)
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
    options: LoopOptions

    def step(self, x: Tensor, k: int) -> Tensor:
        """Make network call k and the step after it."""

        def scale_input(latents: Tensor) -> Tensor:
            return self.run.scale_input(latents, k)

        at = SamplingStep(k, len(self.run.timesteps), self.run.timesteps[k], x, self.guidance, scale_input)
        for each in self.callbacks:
            at = replace(at, latents=run_callback(each.before, "before", at, at.latents))
        with (
            torch.set_grad_enabled(self.options.gradient in ("all", k)),
            self.run.observe(self.model, at.latents, self.options.focus),
        ):
            empty, said = self.guidance.predict_sides(self.model, scale_input(at.latents), at.t)
            guided = self.guidance.combine(empty, said)
        at = replace(at, prediction=guided, sides=None if empty is None else (empty, said))
        for each in self.callbacks:
            at = replace(at, prediction=run_callback(each.predicted, "predicted", at, _predicted(at)))
        if self.options.residuals is None:
            following = self.run.step(at.latents, _predicted(at), k, self.generators)
        else:
            following = self.run.step(at.latents, _predicted(at), k, None) + self.options.residuals[k]
        at = replace(at, latents=following)
        for each in self.callbacks:
            at = replace(at, latents=run_callback(each.after, "after", at, at.latents))
        return at.latents


def _predicted(at: SamplingStep) -> Tensor:
    assert at.prediction is not None
    return at.prediction


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
    config = model.checkpoint.config(model.spec.denoiser)
    return bool(config.get("guidance_embeds")) or config.get("time_cond_proj_dim") is not None


def require_classifier_free_guidance(model: ModelView, who: str) -> None:
    """Raise `SettingsError` if a model is drawn with no classifier-free guidance, which `who` changes."""
    few = model.few_step
    is_free = not is_guidance_distilled(model) and (few is None or few.guidance == "classifier-free")
    message = f"{who} changes classifier-free guidance, which {model.name} has none of: its guidance is distilled"
    require(is_free, f"{message}; use a method that erases from its weights")
