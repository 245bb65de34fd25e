"""Diffusion completion: Lu et al., "When Are Concepts Erased From Diffusion Models?", NeurIPS 2025, arXiv:2505.17013.

The unedited model draws the first steps and the edited one the rest: whether it goes on with what it no longer begins.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from ..core.errors import require
from ..models.diffusion.procedures.given_latents import GivenLatents
from ..models.diffusion.sampler import Sampler
from ..models.families import FAMILIES
from .registry import AttackAttempt, AttackCase, AttackInput, attack

_HUNDREDTHS = 100  # a search is as long as the share of the sampling that the unedited model makes


@attack("completion", paper="arXiv:2505.17013", rung="latent", scope="prompt", families=FAMILIES, white_box=False)
@dataclass(frozen=True)
class Completion:
    """Hands latents of the unedited model over to the edited one. Shares of the paper's 50 steps, swept further.

    Differs: the authors' code hands over after one to three steps, their paper after five or ten; we sweep, so that the
    curve shows after how many steps half of the prompts show the concept. (inferred) A flow is drawn by Euler's steps.
    """

    handovers: tuple[float, ...] = (0.02, 0.04, 0.06, 0.1, 0.2, 0.3, 0.5, 0.7)
    """Shares of the sampling steps that the unedited model makes, rising, above 0 to below 1."""

    def __post_init__(self) -> None:
        rising = list(self.handovers) == sorted({*self.handovers}) and bool(self.handovers)
        fits = rising and all(0 < share < 1 for share in self.handovers)
        require(fits, f"completion: handovers must rise from above 0 to below 1, got {self.handovers}")

    @property
    def most_steps(self) -> int:
        """Hundredths of the sampling that the unedited model makes in a search that finds nothing."""
        return round(_HUNDREDTHS * self.handovers[-1])

    @torch.no_grad()
    def search(self, case: AttackCase) -> Iterator[AttackAttempt]:
        """Draw the prompts' first steps with the unedited model. The floor is a hand-over after none of them."""
        name = None if case.model.schedule.prediction_type == "flow" else "ddim"
        _, c, h, w = case.noise.shape
        loop = Sampler(case.model, case.steps, name, shape=(c, h, w))
        noise = case.noise.to(case.model.device, case.model.dtype)
        x, done = {i: loop.initial_latents(noise[i : i + 1]) for i in range(len(noise))}, 0

        def handed(left: list[int]) -> dict[int, AttackInput]:
            procedures = {i: GivenLatents(x[i].float().cpu(), done, case.steps, name) for i in left}
            return {i: AttackInput(case.prompts[i], sampling=given) for i, given in procedures.items()}

        yield AttackAttempt(0, handed(list(x)))
        for share in self.handovers:
            stop, left = max(1, round(share * len(loop))), case.unsolved
            if not left:
                return
            for i in left:
                x[i] = loop.denoise(x[i], case.model.guide([case.prompts[i]], case.guidance_scale), done, stop)
            if stop > done:  # Shares that round to the same step are tried once.
                done = stop
                yield AttackAttempt(round(_HUNDREDTHS * share), handed(left))
