"""Recall: Li et al., ICLR 2026, arXiv:2507.07139 (from the authors' scripts).

Keeps the prompt and searches latents of a picture, from which the edited model draws by image-to-image: those for which
it predicts the noise as for a picture of the concept.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from ..core.errors import require
from ..models.diffusion.procedures.given_latents import GivenLatents
from ..models.diffusion.procedures.image_to_image import ImageToImage
from ..models.diffusion.timestep_grid import even_timesteps
from ..models.diffusion.vae import encode_images
from ..models.families import FAMILIES
from ..models.model_view import PromptGuidance
from ..training import Descent, StepLoss
from ..training.token_search import normal_noise, random_generators
from .registry import AttackAttempt, AttackCase, AttackInput, LadderPlace, attack, require_positive_settings

_SMALLEST = 1e-8  # added to the mean size of a gradient


@attack(
    "recall",
    paper="arXiv:2507.07139",
    rung="picture",
    scope="prompt",
    families=FAMILIES,
    place=LadderPlace(pictures="example", starts_from_pictures=True),
)
@dataclass(frozen=True)
class Recall:
    """Searches an adversarial picture beside the unchanged prompt. Defaults of the authors' script.

    The floor is the plain picture by image-to-image, which the authors count as a success; its share of all successes
    is what the picture itself brings. Controls are the picture as it is, and the search's start.
    """

    direction: Literal["as_released", "descent"] = "as_released"
    """The loss is to fall, but the authors' update climbs it: "as_released" climbs, "descent" descends."""
    balance: float = 0.25
    """Share of the picture's latents at the start, 0 to 1; the rest is noise."""
    timesteps: int = 50
    """Number of timesteps, visited in ascending order with an attempt after each."""
    iterations: int = 20
    """Updates at each timestep."""
    lr: float = 1e-3
    """eta: size of each entry's step."""
    momentum: float = 0.9
    """Share of the last update's direction that stays."""
    interval: int = 5
    """Timesteps after which the picture is added again."""
    gamma: float = 0.05
    """Share of the picture that is added, >= 0."""
    strength: float = 0.8
    """Share of the sampling steps that are made over the picture, above 0 to 1."""
    batch_size: int = 8
    """Prompts searched at once; it has no effect on the result."""

    def __post_init__(self) -> None:
        counts = {"timesteps": self.timesteps, "iterations": self.iterations, "interval": self.interval}
        require_positive_settings("recall", batch_size=self.batch_size, **counts)
        require(0 <= self.balance <= 1, f"recall: balance must be 0 to 1, got {self.balance}")
        require(0 < self.strength <= 1, f"recall: strength must be above 0 to 1, got {self.strength}")
        sizes = self.lr, self.momentum, self.gamma
        require(min(sizes) >= 0, f"recall: lr, momentum and gamma must be >= 0, got {sizes}")

    @property
    def most_steps(self) -> int:
        """Steps of a search that finds nothing."""
        return self.timesteps * self.iterations

    def search(self, case: AttackCase) -> Iterator[AttackAttempt]:
        """Search for each prompt, from an example of the concept on other noise.

        Differs: latents of the picture are the posterior's mean; the authors sample from it.
        """
        prompts = range(len(case.prompts))
        with torch.no_grad():
            clean = [encode_images(case.model, case.examples[i % len(case.examples), None]) for i in prompts]
        pictures = torch.cat(clean).float()
        yield AttackAttempt(0, self._drawn(case, dict(zip(prompts, pictures, strict=True))))
        as_they_are = {i: GivenLatents(_row(pictures[i]), None, case.steps) for i in case.unsolved}
        shown = {i: AttackInput("", sampling=given) for i, given in as_they_are.items()}
        yield AttackAttempt(0, shown, control="picture itself")
        for begin in range(0, len(case.prompts), self.batch_size):
            members = [i for i in case.unsolved if begin <= i < begin + self.batch_size]
            yield from self._group(case, members, pictures[members])

    def _group(self, case: AttackCase, members: list[int], pictures: Tensor) -> Iterator[AttackAttempt]:
        """Search latents (b, c, h, w) for these prompts."""
        rngs = random_generators(case.seed, members)
        own = [rngs[i] for i in members]
        noise = normal_noise(pictures.shape[1:], own).to(pictures) if members else pictures
        found = (self.balance * pictures + (1 - self.balance) * noise).requires_grad_()
        yield AttackAttempt(0, self._drawn(case, dict(zip(members, found.detach(), strict=True))), control="no search")
        sign = -1.0 if self.direction == "as_released" else 1.0
        descent = Descent([found], self.lr, "sgd", 0.0, case.seed, transforms=[SignedMomentum(self.momentum, sign)])
        for number, t in enumerate(even_timesteps(case.model, self.timesteps), 1):
            left = [i for i in members if i not in case.solved]
            if not left:
                return
            with case.edit_applied():
                losses = descent.run(self._loss(case, members, found, pictures, own, t), self.iterations)
            if number % self.interval == 0:
                with torch.no_grad():
                    found += self.gamma * pictures
            rows = dict(zip(members, found.detach(), strict=True))
            drawn = self._drawn(case, {i: rows[i] for i in left})
            yield AttackAttempt(descent.done, drawn, sum(losses) / len(losses) / len(members))

    def _loss(
        self,
        case: AttackCase,
        members: Sequence[int],
        found: Tensor,
        pictures: Tensor,
        rngs: Sequence[torch.Generator],
        t: float,
    ) -> StepLoss:
        """Sum over prompts of how far the predictions for both latents are apart, under the same noise at t."""
        model = case.model
        with torch.no_grad():
            guidance = model.guide([case.prompts[i] for i in members], case.guidance_scale)
        at = torch.tensor(t, device=model.device)

        def loss(step: int, rng: torch.Generator) -> Tensor:
            noise = normal_noise(pictures.shape[1:], rngs).to(pictures)
            with torch.no_grad():
                wanted = _both_sides(case, guidance, pictures, noise, at)
            given = _both_sides(case, guidance, found, noise, at)
            return (given - wanted).float().square().flatten(2).mean((0, 2)).sum()

        return loss

    def _drawn(self, case: AttackCase, latents: dict[int, Tensor]) -> dict[int, AttackInput]:
        rows = {i: ImageToImage(_row(latents[i]), self.strength) for i in latents}
        return {i: AttackInput(case.prompts[i], sampling=row) for i, row in rows.items()}


@dataclass
class SignedMomentum:
    """Follows the sign of a momentum of gradients (b, ..), each row divided by its mean size; uphill for sign -1."""

    momentum: float
    sign: float
    velocity: list[Tensor] = field(default_factory=list)

    def gradient(self, step: int, gradients: list[Tensor], params: Sequence[Tensor]) -> list[Tensor]:
        """Return the signs to follow."""
        before = self.velocity or [torch.zeros_like(g) for g in gradients]
        sizes = [g.abs().flatten(1).mean(1).view(-1, *[1] * (g.ndim - 1)) for g in gradients]
        scaled = [g / (size + _SMALLEST) for g, size in zip(gradients, sizes, strict=True)]
        self.velocity = [self.momentum * v + g for v, g in zip(before, scaled, strict=True)]
        return [self.sign * v.sign() for v in self.velocity]

    def after_step(self, params: Sequence[Tensor]) -> None:
        """Nothing to put right."""


def _both_sides(case: AttackCase, guidance: PromptGuidance, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Predictions (sides, b, c, h, w) for the negatives, if there are any, and the prompts, of latents noised at t."""
    model = case.model
    x_t = model.schedule.add_noise(clean, noise, t.expand(len(clean))).to(model.dtype)
    empty, said = guidance.predict_sides(model, x_t, t)
    return said[None] if empty is None else torch.stack([empty, said])


def _row(latents: Tensor) -> Tensor:
    """Latents (1, c, h, w) of one picture (c, h, w), as a procedure holds them."""
    return latents.detach()[None].float().cpu().clone()
