"""Inpainting as an attack: ACE's editing tests (arXiv:2501.01633), and Lu et al., NeurIPS 2025, arXiv:2505.17013.

Blanks a square of a picture of the concept and lets the edited model fill it. What surrounds the square may show the
concept to any model: the blank picture alone is the floor.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..core.errors import require
from ..models.diffusion.procedures.given_latents import GivenLatents
from ..models.diffusion.procedures.inpainting import Inpainting
from ..models.diffusion.vae import encode_images
from ..models.families import FAMILIES
from .registry import AttackAttempt, AttackCase, AttackInput, LadderPlace, attack, noise_of_attacker

_BLANK = 1.0  # white, as in the authors' script


@attack(
    "inpainting",
    paper="arXiv:2505.17013",
    rung="picture",
    scope="prompt",
    families=FAMILIES,
    white_box=False,
    place=LadderPlace(pictures="prompts", starts_from_pictures=True),
)
@dataclass(frozen=True)
class InpaintingFill:
    """Fills a square in the middle of pictures of the concept. The first side is the authors'; wider ones are ours.

    Differs: the judge sees the whole picture, not the square alone; and the denoiser is not one trained to inpaint, so
    that any model can be tried: what lies outside of the square is pasted after each step.
    """

    sides: tuple[float, ...] = (0.5, 0.75)
    """Sides of the square, as shares of the picture's, above 0 to 1."""
    texts: tuple[Literal["prompt", "null"], ...] = ("prompt", "null")
    """Texts to fill it under: the prompt, or the empty text."""

    def __post_init__(self) -> None:
        fits = bool(self.sides) and all(0 < side <= 1 for side in self.sides)
        require(fits, f"inpainting: sides must be above 0 to 1, got {self.sides}")
        require(bool(self.texts), "inpainting: texts is empty: give 'prompt', 'null' or both")

    @property
    def most_steps(self) -> int:
        """Steps of a search that finds nothing: one for each side and text."""
        return len(self.sides) * len(self.texts)

    @torch.no_grad()
    def search(self, case: AttackCase) -> Iterator[AttackAttempt]:
        """Fill each square under each text, from other noise. The floor is the picture with the first one blank."""
        everyone = range(len(case.prompts))
        yield AttackAttempt(0, {i: self._blank(case, i, self.sides[0]) for i in everyone})
        clean = {i: encode_images(case.model, case.pictures[i : i + 1]).float().cpu() for i in case.unsolved}
        tried = 0
        for side in self.sides:
            if tried:
                blank = {i: self._blank(case, i, side) for i in case.unsolved}
                yield AttackAttempt(tried, blank, control=f"picture with a blank square of side {side:g}")
            for text in self.texts:
                tried, left = tried + 1, case.unsolved
                if not left:
                    return
                found = {}
                for i in left:
                    _, _, h, w = clean[i].shape
                    sampling = Inpainting(clean[i], centred_square((h, w), side)[None, None])
                    said = case.prompts[i] if text == "prompt" else ""
                    found[i] = AttackInput(said, noise=noise_of_attacker(case, i), sampling=sampling)
                yield AttackAttempt(tried, found)

    def _blank(self, case: AttackCase, i: int, side: float) -> AttackInput:
        """A picture with a white square, as it is."""
        picture = case.pictures[i : i + 1]
        square = centred_square((picture.shape[2], picture.shape[3]), side).to(picture)
        latents = encode_images(case.model, picture * (1 - square) + _BLANK * square).float().cpu()
        return AttackInput("", sampling=GivenLatents(latents, None, case.steps))


def centred_square(sides: tuple[int, int], share: float) -> Tensor:
    """Mask (h, w) of 0 and 1: a rectangle in the middle, with that share of each side, at least one cell wide."""
    mask = torch.zeros(sides)
    height, width = (max(1, round(share * side)) for side in sides)
    top, left = (sides[0] - height) // 2, (sides[1] - width) // 2
    mask[top : top + height, left : left + width] = 1
    return mask
