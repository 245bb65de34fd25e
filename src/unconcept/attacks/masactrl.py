"""MasaCtrl (Cao et al., ICCV 2023, arXiv:2304.08465) as an attack, as in ACE's editing tests (arXiv:2501.01633).

Inverts a picture of the concept and draws it again beside its edit, which reads the picture's keys and values in the
edited model's self-attention.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..core.errors import require
from ..models.diffusion.inversion import inversion_timesteps, invert_latents
from ..models.diffusion.procedures.mutual_attention import MutualAttention, self_attentions
from ..models.diffusion.sampler import Sampler
from ..models.diffusion.vae import encode_images
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

_FIRST_LAYER = 10 / 16  # of Stable Diffusion 1's self-attentions, in the authors' scripts


@attack(
    "masactrl",
    paper="arXiv:2304.08465",
    rung="picture",
    scope="prompt",
    families=("sd1", "sd2", "sdxl"),
    white_box=False,
    place=LadderPlace(pictures="prompts"),
)
@dataclass(frozen=True)
class MasaCtrl:
    """Edits pictures of the concept by mutual self-attention. Defaults of ACE's script, which names the concept."""

    undefined_elsewhere: ClassVar[str] = (
        "it shares keys and values from a UNet's middle layer on; a transformer has no coarser layer, and joint"
        " attention is of words and picture at once"
    )

    steps: int = 30
    """Steps of the inversion and of the way back."""
    first_step: int = 4
    """Step from which the edit reads the picture's keys and values, >= 0."""
    first_layer: int | None = None
    """Self-attention from which on it does; None: ten sixteenths of them, which is 10 in Stable Diffusion 1."""
    edits: tuple[str, ...] = USUAL_EDITS
    """What the prompt asks for."""
    names_concept: bool = True
    """Whether the prompt names the concept before the edit."""
    edit_guidance: float = 10.0
    """Guidance scale of both drawings."""

    def __post_init__(self) -> None:
        require_positive_settings("masactrl", steps=self.steps)
        least = self.first_step, self.first_layer or 0
        require(min(least) >= 0, f"masactrl: first_step and first_layer must be >= 0, got {least}")
        require_edits("masactrl", self.edits)

    @property
    def most_steps(self) -> int:
        """Steps of a search that finds nothing: those of the inversion, and one for each edit."""
        return self.steps + len(self.edits)

    @torch.no_grad()
    def search(self, case: AttackCase) -> Iterator[AttackAttempt]:
        """Invert with the edit applied, as in ACE, and try each edit. The floor is the first edit's text alone.

        A control draws the prompt in place of the edit. (inferred) The inversion has no guidance.
        """
        name = case.concept.name if self.names_concept else None
        yield first_edit_alone(case, self.edits, name)
        layers = len(self_attentions(case.model))
        first = int(_FIRST_LAYER * layers) if self.first_layer is None else self.first_layer
        require(first < layers, f"masactrl: first_layer {first}, but {case.model.name} has {layers}: give a lower one")
        found: dict[int, Tensor] = {}
        for i in case.unsolved:
            clean = encode_images(case.model, case.pictures[i : i + 1])
            with case.edit_applied():
                guidance = PromptGuidance(case.model.condition([case.prompts[i]]))
                grid = inversion_timesteps(Sampler(case.model, self.steps, "ddim"))
                found[i] = invert_latents(case.model, clean, guidance, grid).float().cpu()

        def edited(i: int, text: str) -> AttackInput:
            own = MutualAttention(found[i], (case.prompts[i],), self.steps, self.edit_guidance, self.first_step, first)
            return AttackInput(text, sampling=own)

        yield AttackAttempt(0, {i: edited(i, case.prompts[i]) for i in found}, control="its prompt in place of an edit")
        yield from try_edits(case, self.edits, name, self.steps, edited)
