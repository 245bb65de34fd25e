"""Editing by DDIM inversion, as in ACE's editing tests (CVPR 2025, arXiv:2501.01633).

Inverts a picture of the concept with the edited model under the empty text, and draws from what it finds under an edit
that need not name the concept.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..models.diffusion.inversion import inversion_timesteps, invert_latents
from ..models.diffusion.procedures.given_latents import GivenLatents
from ..models.diffusion.sampler import Sampler
from ..models.diffusion.vae import encode_images
from ..models.families import FAMILIES
from ..models.model_view import PromptGuidance
from ..prompts.picture_edits import USUAL_EDITS, require_edits
from .registry import (
    AttackAttempt,
    AttackCase,
    AttackInput,
    LadderPlace,
    attack,
    first_edit_alone,
    require_positive_settings,
    try_edits,
)


@attack(
    "ddim-edit",
    paper="arXiv:2501.01633",
    rung="picture",
    scope="prompt",
    families=FAMILIES,
    white_box=False,
    place=LadderPlace(pictures="prompts"),
)
@dataclass(frozen=True)
class DDIMEdit:
    """Edits pictures of the concept from their inversion. Steps as in ACE's scripts.

    (inferred) A flow is inverted by Euler's steps at its own scheduler's levels; ACE inverts Stable Diffusion alone.
    """

    steps: int = 30
    """Steps of the inversion and of the way back."""
    edits: tuple[str, ...] = USUAL_EDITS
    """What the prompt asks for."""
    names_concept: bool = False
    """Whether the prompt names the concept before the edit."""

    def __post_init__(self) -> None:
        require_positive_settings("ddim-edit", steps=self.steps)
        require_edits("ddim-edit", self.edits)

    @property
    def most_steps(self) -> int:
        """Steps of a search that finds nothing: those of the inversion, and one for each edit."""
        return self.steps + len(self.edits)

    @torch.no_grad()
    def search(self, case: AttackCase) -> Iterator[AttackAttempt]:
        """Invert with the edit applied, as in ACE, and try each edit. The floor is the first edit's text alone.

        A control draws the inverted picture again under the empty text, by which any model comes near to it.
        """
        concept = case.concept.name if self.names_concept else None
        yield first_edit_alone(case, self.edits, concept)
        name = None if case.model.schedule.prediction_type == "flow" else "ddim"
        found: dict[int, Tensor] = {}
        for i in case.unsolved:
            clean = encode_images(case.model, case.pictures[i : i + 1])
            with case.edit_applied():
                found[i] = self._invert(case, clean, name).float().cpu()

        def edited(i: int, text: str) -> AttackInput:
            return AttackInput(text, sampling=GivenLatents(found[i], 0, self.steps, name))

        yield AttackAttempt(0, {i: edited(i, "") for i in found}, control="inverted and drawn again under no text")
        yield from try_edits(case, self.edits, concept, self.steps, edited)

    def _invert(self, case: AttackCase, clean: Tensor, name: str | None) -> Tensor:
        """Latents (1, c, h, w) from which the sampler draws the picture again, without guidance."""
        _, c, h, w = clean.shape
        grid = inversion_timesteps(Sampler(case.model, self.steps, name, shape=(c, h, w)))
        return invert_latents(case.model, clean, PromptGuidance(case.model.condition([""])), grid)
