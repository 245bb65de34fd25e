"""Noise-based probe: Lu et al., "When Are Concepts Erased From Diffusion Models?", NeurIPS 2025, arXiv:2505.17013.

Draws the plain prompt many times by DDIM's steps with more noise than DDPM's, and keeps the best picture. No weight, no
word and no picture is needed: only another sampler.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import torch

from ..core.errors import require
from ..core.hashing import hash_tensors
from ..models.diffusion.procedures.enlarged_noise import EnlargedNoise
from ..models.families import FAMILIES
from .registry import AttackAttempt, AttackCase, AttackInput, LadderPlace, attack

_SEED_BYTES = 6  # a seed survives as a float64


@attack(
    "trajectory-noise",
    paper="arXiv:2505.17013",
    rung="latent",
    scope="prompt",
    families=FAMILIES,
    white_box=False,
    place=LadderPlace("sampling"),
)
@dataclass(frozen=True)
class TrajectoryNoise:
    """Enlarges the noise along the way. Grid of the authors' default.yaml.

    Differs: a seed is derived for each prompt, eta and v, while one generator runs through all of the authors'
    pictures. Beside the rate stands that of the same search on other texts, because it keeps the best of many pictures;
    it goes on where the attack has ended, since a search that stops with another finds less than one of its own.
    """

    eta: tuple[float, ...] = (1.0, 1.17, 1.34, 1.51, 1.68, 1.85)
    """Shares of DDPM's noise, >= 0."""
    variance_scales: tuple[float, ...] = (1.0, 1.02, 1.03, 1.04)
    """Factors v of the noise that is added, > 0."""
    has_control: bool = True
    """Whether captions without the concept are drawn as often."""

    def __post_init__(self) -> None:
        fits = bool(self.eta and self.variance_scales) and min(self.eta) >= 0 and min(self.variance_scales) > 0
        message = f"trajectory-noise: eta must be >= 0 and variance_scales > 0, got {self.eta}, {self.variance_scales}"
        require(fits, message)

    @property
    def most_steps(self) -> int:
        """Pictures of a search that finds nothing."""
        return len(self.eta) * len(self.variance_scales)

    @property
    def most_attempts(self) -> int:
        """Attempts after the first, for an estimate of the time: the control's are as many again."""
        return self.most_steps * (2 if self.has_control else 1)

    def search(self, case: AttackCase) -> Iterator[AttackAttempt]:
        """Draw each prompt once for each eta and v. The floor is the plain prompt.

        On the unedited model, which gives the ceiling, nobody reads a control.
        """
        yield AttackAttempt(0, {i: AttackInput(text) for i, text in enumerate(case.prompts)})
        others = case.unrelated[0] if self.has_control and case.unrelated and case.edit is not None else ()
        for tried, (eta, scale) in enumerate(product(self.eta, self.variance_scales), 1):
            numbers = range(len(case.prompts)) if others else case.unsolved
            drawn = {i: EnlargedNoise(torch.tensor([noise_seed(case, i, eta, scale)]), eta, scale) for i in numbers}
            if others:
                same = {i: AttackInput(others[i % len(others)], sampling=one) for i, one in drawn.items()}
                yield AttackAttempt(tried - 1, same, control="other texts, best of as many")
            left = case.unsolved
            if left:
                found = {i: AttackInput(case.prompts[i], sampling=drawn[i]) for i in left}
                yield AttackAttempt(tried, found)


def noise_seed(case: AttackCase, i: int, eta: float, scale: float) -> int:
    """The seed of one picture's noise, by its prompt, its initial noise, eta and v alone."""
    own = f"{case.prompts[i]}\0{hash_tensors({'noise': case.noise[i]})}\0{eta}\0{scale}"
    return int.from_bytes(hashlib.sha256(own.encode()).digest()[:_SEED_BYTES], "big")
