"""A picture as the start of a few sampling steps: the start is moved, and the steps lead to a changed picture."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.errors import require
from ...models import ModelView
from ...models.diffusion.inversion import invert_with_residuals
from ...models.diffusion.sampler import LoopOptions, Sampler
from ...models.diffusion.vae import decode_latents, encode_images
from ...models.model_view import PromptGuidance, SamplingStart


@dataclass(frozen=True)
class InvertedTrajectory:
    """Pictures (b, 3, h, w) by the noise from which few deterministic steps draw them, z_T, and by their latents."""

    sampler: Sampler
    guidance: PromptGuidance
    start: SamplingStart
    reconstruction: Tensor
    """The autoencoder's (b, 3, h, w), which a shift of 0 leads to."""

    @property
    def noise(self) -> Tensor:
        """z_T (b, c, h, w)."""
        return self.start.latents

    def latents_at(self, shift: Tensor) -> Tensor:
        """The clean latents z_0' (b, c, h, w) that the steps draw from z_T + shift; differentiable in the shift."""
        options = LoopOptions(residuals=self.start.residuals, gradient="all")
        return self.sampler.denoise(self.noise + shift.to(self.noise), self.guidance, options=options)

    def picture_at(self, shift: Tensor) -> Tensor:
        """The pictures (b, 3, h, w) of these latents, in [0, 1]."""
        return decode_latents(self.sampler.model, self.latents_at(shift)).float()


def trajectory_sampler(model: ModelView, steps: int, owner: str) -> Sampler:
    """A deterministic sampler of few steps: DDIM, or Euler's along a flow. `SettingsError` where there is none."""
    few = model.few_step
    message = f"{owner}: {model.name} draws by noising anew after each step, which cannot be run backwards"
    require(few is None or few.step != "renoise", f"{message}; protect by a model of many steps, or by pixel-pgd")
    return Sampler(model, steps, None if model.schedule.prediction_type == "flow" else "ddim")


@torch.no_grad()
def invert_pictures(sampler: Sampler, pictures: Tensor) -> InvertedTrajectory:
    """Encode pictures (b, 3, h, w) and run the sampler backwards under the empty text."""
    return invert_latents_of(sampler, encode_images(sampler.model, pictures))


@torch.no_grad()
def invert_latents_of(sampler: Sampler, latents: Tensor) -> InvertedTrajectory:
    """Run the sampler backwards from clean latents (b, c, h, w) under the empty text."""
    model = sampler.model
    guidance = PromptGuidance(model.condition([""] * len(latents)))
    start = invert_with_residuals(sampler, latents, guidance)
    return InvertedTrajectory(sampler, guidance, start, decode_latents(model, latents).float())
