"""SDEdit: Meng et al., ICLR 2022, arXiv:2108.01073, as an attack beside ACE's editing tests (arXiv:2501.01633).

Noises a picture of the concept to a level and lets the edited model draw on from there under an edit that need not name
the concept. Anyone with an image-to-image interface can do this.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from ..core.errors import require
from ..models.diffusion.procedures.given_latents import GivenLatents
from ..models.diffusion.procedures.image_to_image import ImageToImage
from ..models.diffusion.vae import encode_images
from ..models.families import FAMILIES
from ..prompts.picture_edits import USUAL_EDITS, require_edits
from .registry import (
    AttackAttempt,
    AttackCase,
    AttackInput,
    LadderPlace,
    attack,
    first_edit_alone,
    noise_of_attacker,
    try_edits,
)


@attack(
    "sdedit",
    paper="arXiv:2108.01073",
    rung="picture",
    scope="prompt",
    families=FAMILIES,
    white_box=False,
    place=LadderPlace(pictures="prompts"),
)
@dataclass(frozen=True)
class SDEdit:
    """Edits pictures of the concept by image-to-image. (inferred) ACE's scripts have no SDEdit; strengths are ours.

    Beside its rate stands that of the pictures themselves: at a low strength any model returns what it was given.
    """

    strengths: tuple[float, ...] = (0.3, 0.5, 0.7, 0.9)
    """Shares of the sampling steps that are made over the picture, above 0 to 1."""
    edits: tuple[str, ...] = USUAL_EDITS
    """What the prompt asks for."""
    names_concept: bool = False
    """Whether the prompt names the concept before the edit."""

    def __post_init__(self) -> None:
        fits = bool(self.strengths) and all(0 < level <= 1 for level in self.strengths)
        require(fits, f"sdedit: strengths must be above 0 to 1, got {self.strengths}")
        require_edits("sdedit", self.edits)

    @property
    def most_steps(self) -> int:
        """Steps of a search that finds nothing: one for each strength and edit."""
        return len(self.strengths) * len(self.edits)

    @torch.no_grad()
    def search(self, case: AttackCase) -> Iterator[AttackAttempt]:
        """Try each edit at each strength, on other noise. The floor is the first edit's text without the picture."""
        name = case.concept.name if self.names_concept else None
        yield first_edit_alone(case, self.edits, name)
        clean = {i: encode_images(case.model, case.pictures[i : i + 1]).float().cpu() for i in case.unsolved}
        sources = {
            i: AttackInput(case.prompts[i], sampling=GivenLatents(x, None, case.steps)) for i, x in clean.items()
        }
        yield AttackAttempt(0, sources, control="picture itself")
        for turn, strength in enumerate(self.strengths):

            def edited(i: int, text: str, strength: float = strength) -> AttackInput:
                return AttackInput(text, noise=noise_of_attacker(case, i), sampling=ImageToImage(clean[i], strength))

            yield from try_edits(case, self.edits, name, turn * len(self.edits), edited)
