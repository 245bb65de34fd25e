"""DDIM inversion (Song et al., ICLR 2021, arXiv:2010.02502) as an attack, as in ACE's editing tests (arXiv:2501.01633).

Inverts an image of the concept to the noise from which the edited model itself would generate it, and samples from it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..models.diffusion.inversion import invert_latents
from ..models.diffusion.schedulers import flow_timesteps
from ..models.diffusion.vae import encode_images
from ..models.families import FAMILIES
from ..models.model_view import PromptGuidance
from .registry import AttackAttempt, AttackCase, AttackInput, LadderPlace, attack, require_positive_settings


@attack(
    "latent-inversion",
    paper="arXiv:2501.01633",
    rung="latent",
    scope="prompt",
    families=FAMILIES,
    place=LadderPlace(pictures="prompts"),
)
@dataclass(frozen=True)
class LatentInversion:
    """Finds the noise from which the edited model generates an image of the concept. Steps as in ACE's scripts.

    (inferred) A flow is inverted by Euler's steps at its own scheduler's levels; ACE inverts Stable Diffusion alone.
    """

    steps: int = 30
    """Steps of the inversion."""
    text: Literal["null", "prompt"] = "null"
    """Text of the edited model during the inversion, which has no guidance."""
    drawn: Literal["null", "prompt"] = "prompt"
    """Text for sampling from the noise; with "null" any model reproduces the image."""
    batch_size: int = 8
    """Images inverted at once."""

    def __post_init__(self) -> None:
        require_positive_settings("latent-inversion", steps=self.steps, batch_size=self.batch_size)

    @property
    def most_steps(self) -> int:
        """Steps of a search that finds nothing."""
        return self.steps

    @torch.no_grad()
    def search(self, case: AttackCase) -> Iterator[AttackAttempt]:
        """Invert the images with the edit applied, as in ACE. The floor is the prompt from its own noise."""
        yield AttackAttempt(0, {i: AttackInput(text) for i, text in enumerate(case.prompts)})
        left = case.unsolved
        found: dict[int, Tensor] = {}
        for start in range(0, len(left), self.batch_size):
            part = left[start : start + self.batch_size]
            latents = encode_images(case.model, case.pictures[part])
            with case.edit_applied():
                back = self._invert(case, latents, ["" if self.text == "null" else case.prompts[i] for i in part])
            found |= dict(zip(part, back.float().cpu(), strict=True))
        yield AttackAttempt(
            self.steps,
            {
                i: AttackInput("" if self.drawn == "null" else case.prompts[i], noise=noise)
                for i, noise in found.items()
            },
        )

    def _invert(self, case: AttackCase, x: Tensor, texts: list[str]) -> Tensor:
        """Run DDIM backwards from x_0 to x_T (b, c, h, w), with the prediction at the cleaner end of each step."""
        if case.model.schedule.prediction_type == "flow":
            levels = flow_timesteps(case.model, self.steps)
            grid = torch.cat([levels.new_zeros(1), levels])
        else:
            grid = torch.linspace(0, len(case.model.schedule.alpha) - 1, self.steps + 1).round().long()
        return invert_latents(case.model, x, PromptGuidance(case.model.condition(texts)), grid)
