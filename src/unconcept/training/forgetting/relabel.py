"""Losses of trainings that relabel pictures: under a target's prompt, predict what another prompt would give.

EraseDiff, SalUn and Scissorhands share them, with their authors' common code.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ...models import ModelView
from ..goals import TextEncodings
from ..images.picture_sets import PictureSet
from ..trajectories import noise_latents

PseudoPrompt = Literal["anchor", "retain"]


@dataclass(frozen=True)
class PictureLosses:
    """Losses on noised pictures of the targets and of the retain set; t is uniform, one for each picture."""

    model: ModelView
    texts: TextEncodings
    forget: PictureSet
    retain: PictureSet
    rows: int  # pictures of each set in a step
    pseudo: PseudoPrompt = "anchor"
    """Prompt to relabel as: that of the anchor, or that of the step's retained pictures (UnlearnCanvas)."""

    def relabelled(self, step: int, rng: torch.Generator) -> Tensor:
        """Return |eps(x_t, c) - sg eps(x_t, pseudo)|^2, both of the current model, on pictures of the targets."""
        which = self.forget.in_turn(step, self.rows)
        x_t, t, _ = noise_latents(self.model, self.forget.latents[which], rng)
        if self.pseudo == "anchor":
            pseudo = [self.forget.anchors[i] for i in which]
        else:
            _, pseudo = self.retain.batch(step, self.rows)
        with torch.no_grad():
            wanted = self.model.denoise(x_t, t, self.texts(pseudo))
        said = self.model.denoise(x_t, t, self.texts([self.forget.prompts[i] for i in which]))
        return (said - wanted).float().square().mean()

    def retained(self, step: int, rng: torch.Generator) -> Tensor:
        """Return the diffusion loss on pictures of the retain set."""
        return self._diffusion(self.retain, step, rng)

    def forgotten(self, step: int, rng: torch.Generator, guidance: float = 0.0) -> Tensor:
        """Return the diffusion loss on pictures of the targets, of (1 + w) eps(x_t, c) - w eps(x_t, "")."""
        return self._diffusion(self.forget, step, rng, guidance)

    def _diffusion(self, pictures: PictureSet, step: int, rng: torch.Generator, guidance: float = 0.0) -> Tensor:
        z, prompts = pictures.batch(step, self.rows)
        x_t, t, wanted = noise_latents(self.model, z, rng)
        if not guidance:
            return (self.model.denoise(x_t, t, self.texts(prompts)) - wanted).float().square().mean()
        both = self.texts([*prompts, *[""] * len(z)])
        said, empty = self.model.denoise(x_t.repeat(2, 1, 1, 1), t.repeat(2), both).chunk(2)
        return ((1 + guidance) * said - guidance * empty - wanted).float().square().mean()
