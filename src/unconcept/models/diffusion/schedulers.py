"""Samplers by their names in papers: diffusers' own schedulers, each run on a copy of its own."""

import inspect
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ...core.errors import SettingsError, require
from ...core.registry import suggest
from ..model_view import ModelView
from .noise_schedule import NoiseSchedule

# All but `euler-ancestral` and `lcm` are deterministic once the initial noise is given.
SAMPLERS = {
    "ddim": "DDIMScheduler",
    "pndm": "PNDMScheduler",
    "lms": "LMSDiscreteScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler-ancestral": "EulerAncestralDiscreteScheduler",
    "dpm": "DPMSolverMultistepScheduler",
    "lcm": "LCMScheduler",
}
# `overshoot` and `amo` go past each of Euler's steps and come back with noise.
FLOW_SAMPLERS = dict.fromkeys(("euler", "overshoot", "amo"), "FlowMatchEulerDiscreteScheduler")


class Stepper(Protocol):
    """A run of a sampler."""

    @property
    def timesteps(self) -> Tensor:
        """Of each network call, falling."""

    @property
    def order(self) -> int:
        """Network calls of one step."""

    def begin(self, k: int) -> None:
        """Start after k network calls."""

    def scale_input(self, x: Tensor, k: int) -> Tensor:
        """The denoiser's input for latents after k calls."""

    def observe(self, model: ModelView, latents: Tensor, focus: Tensor | None) -> AbstractContextManager[None]:
        """Watch the model while it predicts; `focus` (b, l) bool are the text states that matter to the sampler."""

    def step(self, x: Tensor, prediction: Tensor, k: int, generators: Sequence[torch.Generator] | None) -> Tensor:
        """Latents (b, c, h, w) after call k, from those before it.

        Each picture's noise comes from its generator; without generators, DDIM leaves it out.
        """

    def initial_latents(self, noise: Tensor) -> Tensor:
        """Latents before the first call from noise (b, c, h, w) of unit variance."""

    def add_noise(self, latents: Tensor, noise: Tensor, k: int) -> Tensor:
        """Latents after k calls of a picture with these clean latents."""


@dataclass
class SchedulerStepper:
    """A run of a diffusers scheduler, whose timesteps are set."""

    scheduler: Any
    eta: float = 0.0  # DDIM's share of DDPM's noise

    @property
    def timesteps(self) -> Tensor:
        found: Tensor = self.scheduler.timesteps
        return found

    @property
    def order(self) -> int:
        return int(getattr(self.scheduler, "order", 1))

    def begin(self, k: int) -> None:
        if hasattr(self.scheduler, "set_begin_index"):
            self.scheduler.set_begin_index(k)

    def scale_input(self, x: Tensor, k: int) -> Tensor:
        if not hasattr(self.scheduler, "scale_model_input"):
            return x
        scaled: Tensor = self.scheduler.scale_model_input(x, self.timesteps[k])
        return scaled

    def observe(self, model: ModelView, latents: Tensor, focus: Tensor | None) -> AbstractContextManager[None]:
        return nullcontext()

    def step(self, x: Tensor, prediction: Tensor, k: int, generators: Sequence[torch.Generator] | None) -> Tensor:
        accepted = inspect.signature(self.scheduler.step).parameters
        noise = {"variance_noise": torch.zeros_like(x)} if generators is None else {"generator": list(generators)}
        given: Mapping[str, object] = {"eta": self.eta, **noise}
        given = {name: value for name, value in given.items() if name in accepted}
        found: Tensor = self.scheduler.step(prediction, self.timesteps[k], x, **given, return_dict=False)[0]
        return found

    def initial_latents(self, noise: Tensor) -> Tensor:
        scaled: Tensor = noise * getattr(self.scheduler, "init_noise_sigma", 1.0)
        return scaled

    def add_noise(self, latents: Tensor, noise: Tensor, k: int) -> Tensor:
        self.begin(k)
        t = self.timesteps[k : k + 1]
        if hasattr(self.scheduler, "scale_noise"):
            found: Tensor = self.scheduler.scale_noise(latents, t, noise)
        else:
            found = self.scheduler.add_noise(latents, noise, t)
        return found


@dataclass
class RenoiseStepper:
    """Predicts the clean latents and noises them anew for the next timestep (SiD, arXiv:2505.12674)."""

    schedule: NoiseSchedule
    timesteps: Tensor
    order: int = 1

    def begin(self, k: int) -> None: ...

    def scale_input(self, x: Tensor, k: int) -> Tensor:
        return x

    def observe(self, model: ModelView, latents: Tensor, focus: Tensor | None) -> AbstractContextManager[None]:
        return nullcontext()

    def step(self, x: Tensor, prediction: Tensor, k: int, generators: Sequence[torch.Generator] | None) -> Tensor:
        clean = self.schedule.x0(prediction, x, self.timesteps[k : k + 1])
        if k + 1 == len(self.timesteps):
            return clean
        require(generators is not None, "a step that noises anew needs generators: leave residuals out")
        noise = torch.stack([torch.randn(x.shape[1:], generator=rng) for rng in generators or ()])
        return self.add_noise(clean, noise.to(x), k + 1)

    def initial_latents(self, noise: Tensor) -> Tensor:
        return self.add_noise(torch.zeros_like(noise), noise, 0)

    def add_noise(self, latents: Tensor, noise: Tensor, k: int) -> Tensor:
        return self.schedule.add_noise(latents, noise, self.timesteps[k : k + 1])


def named_scheduler(name: str, own: Any) -> Any:
    """A diffusers scheduler of that name with the betas, or the shift, and the prediction type of a model's own."""
    import diffusers

    names = FLOW_SAMPLERS if hasattr(own, "scale_noise") else SAMPLERS
    kind = getattr(diffusers, suggest(name, names, "sampler"))
    known = inspect.signature(kind.__init__).parameters
    config = {key: value for key, value in own.config.items() if key in known or key.startswith("_")}
    # By default DDIM clips to [-1, 1]: right for pixels, wrong for latents. Other schedulers' configs lack the option.
    return kind.from_config(config, **({"clip_sample": False} if name == "ddim" else {}))


def prepared_scheduler(model: ModelView, name: str | None, steps: int, shape: tuple[int, int, int]) -> Any:
    """A copy of the model's own scheduler, or one of a name, with its timesteps set for latents (c, h, w).

    `SettingsError` for a number of steps that it cannot make.
    """
    own: Any = model.modules("scheduler")
    names, others = (FLOW_SAMPLERS, SAMPLERS) if hasattr(own, "scale_noise") else (SAMPLERS, FLOW_SAMPLERS)
    message = f"sampler {name!r} is not defined for {model.family} models: leave it out, or give {', '.join(names)}"
    require(name in names or name not in others, message)
    scheduler = deepcopy(own) if name is None else named_scheduler(name, own)
    count = scheduler.config.num_train_timesteps
    require(0 < steps <= count, f"{steps} sampler steps: give 1 to {count}, the model's number of timesteps")
    try:
        model.set_timesteps(scheduler, steps, shape)
    except ValueError as error:
        kind, reason = type(scheduler).__name__, str(error).partition("\n")[0]
        raise SettingsError(f"{steps} sampler steps are not possible with {kind}: {reason}") from None
    return scheduler


def flow_timesteps(model: ModelView, steps: int) -> Tensor:
    """The timesteps (N,) at which a flow's own scheduler makes so many steps, ascending to noise."""
    found: Tensor = prepared_scheduler(model, None, steps, model.latent_shape).timesteps
    return found.flip(0)
