"""Inversion: from a picture to the latents, or the noise of every step, from which a sampler draws it again.

DDIM inversion (Song et al., ICLR 2021, arXiv:2010.02502), Euler's steps along a flow backwards, and edit-friendly DDPM
inversion (Huberman-Spiegelglas et al., CVPR 2024, arXiv:2304.06140).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ...core.errors import require
from ..model_view import ModelView, PromptGuidance, SamplingStart
from .sampler import LoopOptions, Sampler


@torch.no_grad()
def invert_latents(
    model: ModelView, latents: Tensor, guidance: PromptGuidance, timesteps: Sequence[float] | Tensor
) -> Tensor:
    """Run DDIM, or a flow, backwards from clean latents (b, c, h, w) through rising timesteps, the first one 0.

    Each step takes the prediction at its cleaner end, so the way back to the latents is approximate, and closer with
    more steps.
    """
    return _inverted_path(model, latents, guidance, timesteps)[-1]


def _inverted_path(
    model: ModelView, latents: Tensor, guidance: PromptGuidance, timesteps: Sequence[float] | Tensor
) -> list[Tensor]:
    """The latents (b, c, h, w) at each of the timesteps, clean ones first."""
    path, grid = [latents], torch.as_tensor(timesteps, device=latents.device)
    message = f"timesteps {grid.tolist()} do not rise from 0: give the levels to pass through, such as 0, 500, 999"
    require(len(grid) > 1 and float(grid[0]) == 0 and bool((grid.diff() >= 0).all()), message)
    for here, there in pairwise(grid):
        x = path[-1]
        t, following = here.expand(len(x)), there.expand(len(x))
        said = guidance.predict(model, x, here)
        schedule = model.schedule
        path.append(schedule.add_noise(schedule.x0(said, x, t), schedule.epsilon(said, x, t), following))
    return path


@torch.no_grad()
def invert_with_residuals(sampler: Sampler, latents: Tensor, guidance: PromptGuidance) -> SamplingStart:
    """Run a deterministic sampler backwards from clean latents (b, c, h, w), and keep what its steps lack to return.

    Each step forth adds the distance to where the inversion was (direct inversion: Ju et al., ICLR 2024,
    arXiv:2310.01506), so the way back is exact in any number of steps.
    """
    path = _inverted_path(sampler.model, latents, guidance, inversion_timesteps(sampler))[::-1]
    return SamplingStart(path[0], 0, _missing_steps(sampler, torch.stack(path[:-1]), latents, guidance))


def inversion_timesteps(sampler: Sampler) -> Tensor:
    """The timesteps of a sampler in rising order after 0: `invert_latents` along them ends where the sampler begins."""
    t = sampler.timesteps.flip(0)
    return torch.cat([t.new_zeros(1), t])


@dataclass(frozen=True)
class EditFriendlyNoise:
    """Latents of a picture at each call of a sampler, and what each step must add to arrive at the next ones."""

    latents: Tensor  # (N, b, c, h, w): at call k
    residuals: Tensor  # (N, b, c, h, w): sigma_k z_k

    def start(self, k: int = 0) -> SamplingStart:
        """Start at call k; under the inversion's own guidance, the loop ends at the picture's own latents."""
        require(0 <= k < len(self.latents), f"start step {k}: give 0 (noise) to {len(self.latents) - 1}")
        return SamplingStart(self.latents[k], k, self.residuals)


@torch.no_grad()
def invert_edit_friendly(
    sampler: Sampler, latents: Tensor, guidance: PromptGuidance, generators: Sequence[torch.Generator]
) -> EditFriendlyNoise:
    """Noise clean latents (b, c, h, w) independently for every call, and keep what a step lacks to reach the next.

    The noises are independent of each other, which makes them fit for editing; the residuals make the way back exact
    for any weights. Differs: we keep sigma_k z_k instead of z_k, which the last step, with sigma 0, does not define.
    """
    message = "edit-friendly inversion needs DDPM's steps: make the sampler with name='ddim' and eta=1"
    require(sampler.name == "ddim" and sampler.eta > 0, message)
    shape = latents.shape[1:]
    path = []
    for k in range(len(sampler)):
        noise = torch.stack([torch.randn(shape, generator=rng) for rng in generators]).to(latents)
        path.append(sampler.add_noise(latents, noise, k))
    noised = torch.stack(path)
    return EditFriendlyNoise(noised, _missing_steps(sampler, noised, latents, guidance))


def _missing_steps(sampler: Sampler, path: Tensor, latents: Tensor, guidance: PromptGuidance) -> Tensor:
    """What each step without noise lacks (N, b, c, h, w) to lead along a path (N, b, c, h, w) to clean latents."""
    none, missing = LoopOptions(residuals=torch.zeros_like(path)), []
    for k, after in enumerate([*path[1:], latents]):
        missing.append(after - sampler.denoise(path[k], guidance, k, k + 1, none))
    return torch.stack(missing)
