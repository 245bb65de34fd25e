"""LEDITS++ (Brack et al., CVPR 2024, arXiv:2311.16711) as an attack, as in ACE's editing tests (arXiv:2501.01633).

Inverts a picture of the concept so that its own noise leads back to it, and guides the edited model towards an edit in
a mask of the places that the edit is about. No text of the edit names the concept.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..core.errors import require
from ..core.seeds import numbered_seed
from ..models.diffusion.inversion import EditFriendlyNoise, invert_edit_friendly
from ..models.diffusion.procedures.edit_friendly import EditFriendly
from ..models.diffusion.sampler import Sampler
from ..models.diffusion.vae import encode_images
from ..models.text.vocabulary import word_ids
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
    "ledits",
    paper="arXiv:2311.16711",
    rung="picture",
    scope="prompt",
    families=("sd1", "sd2", "sdxl"),
    white_box=False,
    place=LadderPlace(pictures="prompts"),
)
@dataclass(frozen=True)
class LEdits:
    """Edits pictures of the concept by LEDITS++. Defaults of ACE's script."""

    undefined_elsewhere: ClassVar[str] = (
        "its masks read cross-attention to the words at a quarter of a UNet's sides; a transformer's is joint, or of"
        " one size"
    )

    steps: int = 30
    """Steps of the inversion."""
    skip: float = 0.1
    """Share of further steps at the noisiest end, which are left out, >= 0."""
    source_guidance: float = 1.5
    """Guidance scale of the prompt during the inversion."""
    edits: tuple[str, ...] = USUAL_EDITS
    """What is asked for."""
    edit_guidance: float = 10.0
    """Guidance scale of the edit, above 1."""
    masks: Literal["none", "attention", "intersect"] = "intersect"
    """Places that the edit may change: all, those that attend to its words, or of those where it changes most."""
    threshold: float = 0.9
    """Quantile above which a place is in a mask, 0 to below 1."""

    def __post_init__(self) -> None:
        require_positive_settings("ledits", steps=self.steps)
        require(self.skip >= 0, f"ledits: skip must be >= 0, got {self.skip}")
        require(self.edit_guidance > 1, f"ledits: edit_guidance must be > 1, got {self.edit_guidance}")
        require(0 <= self.threshold < 1, f"ledits: threshold must be 0 to below 1, got {self.threshold}")
        require_edits("ledits", self.edits)

    @property
    def most_steps(self) -> int:
        """Steps of a search that finds nothing: those of the inversion, and one for each edit."""
        return self.steps + len(self.edits)

    @torch.no_grad()
    def search(self, case: AttackCase) -> Iterator[AttackAttempt]:
        """Invert with the edit applied, as in ACE, and try each edit. The floor is the first edit's text alone.

        A control draws with the picture's noise and no edit: any model comes back near to the picture.
        """
        yield first_edit_alone(case, self.edits)
        whole = int(self.steps * (1 + self.skip))
        loop = Sampler(case.model, whole, "ddim", eta=1.0)
        found = {i: self._invert(case, loop, i) for i in case.unsolved}
        plain = {i: self._edited(case, noise, "", whole, 1.0) for i, noise in found.items()}
        yield AttackAttempt(0, plain, control="inverted and drawn again without an edit")

        def edited(i: int, text: str) -> AttackInput:
            return self._edited(case, found[i], text, whole, self.edit_guidance)

        yield from try_edits(case, self.edits, None, self.steps, edited)

    def _invert(self, case: AttackCase, loop: Sampler, i: int) -> EditFriendlyNoise:
        clean = encode_images(case.model, case.pictures[i : i + 1])
        generator = torch.Generator().manual_seed(numbered_seed(case.seed, i))
        with case.edit_applied():
            guidance = case.model.guide([case.prompts[i]], self.source_guidance)
            return invert_edit_friendly(loop, clean, guidance, [generator])

    def _edited(
        self, case: AttackCase, noise: EditFriendlyNoise, edit: str, whole: int, guidance_scale: float
    ) -> AttackInput:
        """Start after the steps that are left out, under the edit alone."""
        begin = whole - self.steps
        sampling = EditFriendly(
            latents=noise.latents[begin].float().cpu(),
            residuals=noise.residuals.transpose(0, 1).float().cpu(),
            words=word_places(case, edit),
            done=begin,
            steps=whole,
            guidance_scale=guidance_scale,
            masks="none" if guidance_scale <= 1 else self.masks,
            threshold=self.threshold,
        )
        return AttackInput(edit, sampling=sampling)


def word_places(case: AttackCase, text: str) -> Tensor:
    """The text states (1, l) bool of a text's own tokens: without those of start, end and padding."""
    tokenizer = case.model.tokenizer
    front = len(tokenizer.around[0])
    places = torch.zeros(1, tokenizer.length, dtype=torch.bool)
    places[0, front : front + len(word_ids(tokenizer, text))] = True
    return places
