"""Adds a harmless LoRA to the edited model, as users do with LoRAs of others; it has no paper.

The LoRA is trained on pictures without the concept, and on the unedited base, which is what LoRAs are made for.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from ..core.errors import RequestError, require
from ..edits import Edit
from ..models.diffusion.vae import encode_images
from ..models.families import FAMILIES
from ..training.images.picture_tuning import PictureTuning
from .registry import AttackAttempt, AttackCase, AttackInput, LadderPlace, attack, require_positive_settings


@attack(
    "merge-lora",
    paper="none",
    rung="weights",
    scope="concept",
    families=FAMILIES,
    place=LadderPlace("merging", teaches=True),
)
@dataclass(frozen=True)
class MergeLora:
    """Adds a LoRA of unrelated pictures, made for the unedited base, at rising strengths.

    An edit of weights is merged with it. One that changes no weight runs on beside the base with the LoRA.
    """

    strengths: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Strengths of the LoRA, rising, > 0."""
    steps: int = 500
    """Steps of its training."""
    lr: float = 1e-4
    """Learning rate of its training."""
    batch_size: int = 4
    """Images in a step."""
    rank: int = 4
    """Rank of the LoRA."""

    def __post_init__(self) -> None:
        rising = list(self.strengths) == sorted({*self.strengths}) and min(self.strengths, default=0) > 0
        require(rising, f"merge-lora: strengths must be increasing numbers > 0, got {self.strengths}")
        require_positive_settings("merge-lora", steps=self.steps, batch_size=self.batch_size, rank=self.rank)
        require(self.lr >= 0, f"merge-lora: lr must be >= 0, got {self.lr}")

    @property
    def most_steps(self) -> int:
        """Steps of a search that finds nothing: those of the training, and one for each strength but the first."""
        return self.steps + len(self.strengths) - 1

    def search(self, case: AttackCase) -> Iterator[AttackAttempt]:
        """Train one LoRA, and try one strength in each attempt."""
        if case.unrelated is None:
            raise RequestError("merge-lora trains on unrelated captions and pictures, and the case has none: give some")
        yield self._attempt(case, 0, None)
        captions, pictures = case.unrelated
        tuning = PictureTuning("lora", self.lr, batch_size=self.batch_size, rank=self.rank, seed=case.seed)
        with torch.no_grad():
            latents = encode_images(case.model, pictures)
        ((_, lora, loss),) = tuning.run(case.model, captions, latents, (self.steps,))
        for tried, strength in enumerate(self.strengths):
            if not case.unsolved:
                return
            yield self._attempt(case, self.steps + tried, lora.scaled(strength), loss)

    def _attempt(self, case: AttackCase, steps: int, weights: Edit | None, loss: float | None = None) -> AttackAttempt:
        left = case.unsolved
        return AttackAttempt(steps, {i: AttackInput(case.prompts[i], weights=weights) for i in left}, loss)
