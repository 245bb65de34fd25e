"""Concept resurgence: Suriyakumar et al., arXiv:2410.08074 (all figures inferred: we did not have the paper's body).

There is no adversary: fine-tunes the edited model on images without the concept, to see whether it comes back.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch

from ..core.errors import RequestError, require
from ..edits import Edit
from ..models.diffusion.vae import encode_images
from ..models.families import FAMILIES
from ..training.images.picture_tuning import PictureTuning
from .registry import AttackAttempt, AttackCase, AttackInput, LadderPlace, attack, require_positive_settings


@attack(
    "resurgence",
    paper="arXiv:2410.08074",
    rung="weights",
    scope="concept",
    families=FAMILIES,
    place=LadderPlace("benign tuning"),
)
@dataclass(frozen=True)
class Resurgence:
    """Fine-tunes the edited model on unrelated images. Defaults inferred."""

    mode: Literal["lora", "full"] = "lora"
    """Train adapters on every attention, or the whole denoiser."""
    lr: float | None = None
    """Learning rate; None: 1e-4 for lora, 1e-5 for full."""
    weight_decay: float = 1e-2
    """Weight decay of AdamW."""
    batch_size: int = 4
    """Images in a step."""
    rank: int = 4
    """Rank of the adapters."""
    checkpoints: tuple[int, ...] = (50, 100, 250, 500, 1000)
    """Numbers of steps at which to make an attempt."""

    def __post_init__(self) -> None:
        rising = list(self.checkpoints) == sorted({*self.checkpoints}) and min(self.checkpoints, default=0) > 0
        require(rising, f"resurgence: checkpoints must be increasing numbers > 0, got {self.checkpoints}")
        require_positive_settings("resurgence", batch_size=self.batch_size, rank=self.rank)
        require(self.lr is None or self.lr >= 0, f"resurgence: lr must be >= 0, got {self.lr}")

    @property
    def most_steps(self) -> int:
        """Steps of a search that finds nothing."""
        return self.checkpoints[-1]

    def search(self, case: AttackCase) -> Iterator[AttackAttempt]:
        """Fine-tune; each attempt keeps the prompts and adds the change of weights so far to the edited model."""
        if case.unrelated is None:
            raise RequestError(
                "resurgence fine-tunes on unrelated captions and pictures, and the case has none: give some"
            )
        captions, pictures = case.unrelated
        tuning = PictureTuning(self.mode, self.lr, self.weight_decay, self.batch_size, self.rank, case.seed)
        tuning.require_precision(case.model, "resurgence")
        yield self._attempt(case, 0, None, None)
        if not case.unsolved:
            return
        with torch.no_grad():
            latents = encode_images(case.model, pictures)
        for steps, weights, loss in tuning.run(case.model, captions, latents, self.checkpoints, case.edit_applied):
            yield self._attempt(case, steps, weights, loss)
            if not case.unsolved:
                return

    def _attempt(self, case: AttackCase, steps: int, weights: Edit | None, loss: float | None) -> AttackAttempt:
        left = case.unsolved
        return AttackAttempt(steps, {i: AttackInput(case.prompts[i], weights=weights) for i in left}, loss)
