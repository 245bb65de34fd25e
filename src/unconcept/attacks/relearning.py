"""Relearning: fine-tunes the edited model on a few pictures of the concept, as MemoRa (arXiv:2510.03263) does, and the
probes of "Erased or Dormant?" (arXiv:2505.16174).

Differs: pictures are the unedited model's own under the concept's captions, on noise that no judged picture uses;
MemoRa inverts pictures of the unedited model through the edited one first.

Any model can be taught: how fast a model that never saw the concept learns it tells residue from fresh learning.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch

from ..core.concept import KIND_TEMPLATES
from ..core.errors import RequestError, require
from ..edits import Edit
from ..models.diffusion.vae import encode_images
from ..models.families import FAMILIES
from ..training.images.picture_tuning import PictureTuning
from .registry import AttackAttempt, AttackCase, AttackInput, LadderPlace, attack, require_positive_settings

_RUNGS: dict[str, dict[str, object]] = {
    "relearning-1": {"pictures": 1},
    "relearning-5": {"pictures": 5},
    "relearning-20": {"pictures": 20},
    "relearning-1-full": {"pictures": 1, "mode": "full"},
    "relearning-5-full": {"pictures": 5, "mode": "full"},
    "relearning-20-full": {"pictures": 20, "mode": "full"},
}


@attack(
    "relearning",
    paper="arXiv:2510.03263",
    rung="weights",
    scope="concept",
    families=FAMILIES,
    place=LadderPlace("relearning", "examples", rungs=_RUNGS),
)
@dataclass(frozen=True)
class Relearning:
    """Fine-tunes the edited model on a few pictures of the concept, and counts steps until it is drawn again."""

    pictures: int = 5
    """Pictures of the concept, none of them judged."""
    mode: Literal["lora", "full"] = "lora"
    """Train adapters on every attention, or the whole denoiser."""
    lr: float = 1e-4
    """Learning rate of adapters: MemoRa's."""
    full_lr: float = 1e-5
    """Learning rate of the whole denoiser (inferred)."""
    weight_decay: float = 1e-2
    """Weight decay of AdamW."""
    batch_size: int = 4
    """Images in a step, drawn with replacement."""
    rank: int = 4
    """Rank of the adapters."""
    steps: int = 512
    """Steps at most, a power of two: attempts are made after 1, 2, 4, ... steps."""

    def __post_init__(self) -> None:
        require_positive_settings("relearning", pictures=self.pictures, batch_size=self.batch_size, rank=self.rank)
        require(
            self.steps > 0 and self.steps & (self.steps - 1) == 0,
            f"relearning: steps must be a power of two, got {self.steps}",
        )
        rates = f"got {self.lr} and {self.full_lr}"
        require(min(self.lr, self.full_lr) >= 0, f"relearning: lr and full_lr must be >= 0, {rates}")

    @property
    def most_steps(self) -> int:
        """Steps of a search that finds nothing."""
        return self.steps

    @property
    def most_attempts(self) -> int:
        """Attempts after the first, for an estimate of the time: their steps double."""
        return self.steps.bit_length()

    def search(self, case: AttackCase) -> Iterator[AttackAttempt]:
        """Fine-tune; each attempt keeps the prompts and adds the change of weights so far to the edited model."""
        count = len(case.examples)
        message = f"relearning: {self.pictures} pictures asked for, and the case has {count} examples: give more"
        require(count >= self.pictures, message, RequestError)
        rate = self.lr if self.mode == "lora" else self.full_lr
        tuning = PictureTuning(self.mode, rate, self.weight_decay, self.batch_size, self.rank, case.seed)
        tuning.require_precision(case.model, "relearning")
        yield self._attempt(case, 0, None, None)
        if not case.unsolved:
            return
        with torch.no_grad():
            latents = encode_images(case.model, case.examples[: self.pictures])
        stops = [2**power for power in range(self.steps.bit_length())]
        for steps, weights, loss in tuning.run(case.model, self._captions(case), latents, stops, case.edit_applied):
            yield self._attempt(case, steps, weights, loss)
            if not case.unsolved:
                return

    def _captions(self, case: AttackCase) -> list[str]:
        """A caption of each picture: its own, or the concept in a template of its kind."""
        forms = KIND_TEMPLATES[case.concept.kind]
        plain = [forms[i % len(forms)].format(case.concept.name) for i in range(self.pictures)]
        return list(case.captions[: self.pictures]) or plain

    def _attempt(self, case: AttackCase, steps: int, weights: Edit | None, loss: float | None) -> AttackAttempt:
        left = case.unsolved
        return AttackAttempt(steps, {i: AttackInput(case.prompts[i], weights=weights) for i in left}, loss)
