"""Trajectory-shifted perturbation: "Latent Diffusion Unlearning", ACM MM 2025, arXiv:2510.03089.

Inverts a picture to the noise from which a few steps draw it, moves that noise, and draws again: the change lies among
what the model draws, not beside it as noise of pixels does. (inferred) The authors publish no code of the training; the
loss, the dual ascent and the numbers are concluded from the abstract and from what their repository evaluates.

Differs: the steps add what the inversion lacks, so that a shift of 0 gives the autoencoder's reconstruction in any
number of steps; the few-step ("shortcut") model that the authors name is the model itself in a few DDIM or flow steps.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..core.errors import SettingsError, require
from ..models.families import FAMILIES
from ..training import Descent
from ..training.perturbation.budget import DualWeight
from ..training.perturbation.learning_loss import LearningLoss
from ..training.perturbation.shift_network import fresh_network, restored_network
from ..training.perturbation.trajectory import (
    InvertedTrajectory,
    invert_latents_of,
    invert_pictures,
    trajectory_sampler,
)
from .registry import PreparationCase, ProtectionCase, protection


@protection("trajectory-shift", paper="arXiv:2510.03089", families=FAMILIES)
@dataclass(frozen=True)
class TrajectoryShift:
    """Moves the noise from which the model draws the picture, so that its users learn it badly."""

    shift: Literal["picture", "network"] = "picture"
    """Descend the shift of each picture, or let a network predict it, which is trained once a model and kept."""
    base: Literal["reconstruction", "picture"] = "reconstruction"
    """What is changed: the autoencoder's reconstruction, as in the paper, or the picture itself, which keeps what a
    small autoencoder loses (Differs)."""
    steps: int = 4
    """Steps of the inversion and of drawing again."""
    rounds: int = 2
    """How often inversion and drawing alternate; each round begins where the last one ended."""
    iterations: int = 200
    """Steps of descent for a picture, over all rounds."""
    lr: float = 1e-2
    """Learning rate of a picture's shift, by Adam."""
    samples: int = 4
    """Timesteps and noises of the loss in a step, for each picture."""
    multiplier: float = 1.0
    """First weight of what lies beyond the budget."""
    dual_lr: float = 0.01
    """Rate of the dual ascent of this weight."""
    network_iterations: int = 2000
    """Steps of the network's training."""
    network_lr: float = 1e-4
    """Learning rate of the network, by AdamW."""
    network_pictures: int = 64
    """Pictures by the model itself on which the network is trained."""
    network_batch: int = 4
    """Of them in a step."""
    network_width: int = 32
    """Channels of the network's outer layers."""

    def __post_init__(self) -> None:
        counts = ("steps", "rounds", "iterations", "samples", "network_pictures", "network_batch", "network_width")
        for name in counts:
            count = getattr(self, name)
            require(count > 0, f"trajectory-shift: {name} must be > 0, got {count}")
        message = f"trajectory-shift: iterations must be >= rounds, got {self.iterations} for {self.rounds}"
        require(self.iterations >= self.rounds, message)
        rates = (self.lr, self.network_lr, self.multiplier, self.dual_lr, float(self.network_iterations))
        names = "lr, network_lr, multiplier, dual_lr and network_iterations"
        require(min(rates) >= 0, f"trajectory-shift: {names} must be >= 0, got {rates}")

    @property
    def training_pictures(self) -> int:
        """Pictures that the network's training needs; 0 without a network."""
        return self.network_pictures if self.shift == "network" else 0

    def protect(self, case: ProtectionCase) -> Tensor:
        """Alternate inversion and drawing; x' = D(z_0'(z_T + shift))."""
        picture = case.picture[None].to(case.model.device)
        sampler = trajectory_sampler(case.model, self.steps, "trajectory-shift")
        first = here = invert_pictures(sampler, picture)
        dual = DualWeight(self.multiplier, self.dual_lr)
        shift = torch.zeros_like(here.noise, dtype=torch.float32)
        for turn in range(self.rounds):
            if turn:
                with torch.no_grad():
                    here = invert_latents_of(sampler, here.latents_at(shift))
            shift = self._shift_of(case, first, here, dual, turn)
        with torch.no_grad():
            return self._changed(picture, first, here, shift)[0]

    def prepare(self, case: PreparationCase) -> Mapping[str, Tensor]:
        """Train g: min over g of -L + lambda max(0, d / rho - 1), with dual ascent of lambda."""
        network = fresh_network(case.model.latent_shape[0], self.network_width, case.seed).to(case.model.device)
        sampler = trajectory_sampler(case.model, self.steps, "trajectory-shift")
        loss, dual = LearningLoss(case.model, case.text, self.samples), DualWeight(self.multiplier, self.dual_lr)
        inverted = [invert_pictures(sampler, one[None].to(case.model.device)) for one in case.pictures]

        def step_loss(step: int, rng: torch.Generator) -> Tensor:
            chosen = torch.randint(len(inverted), (self.network_batch,), generator=rng).tolist()
            total = torch.zeros((), device=case.model.device)
            for i in chosen:
                picture, here = case.pictures[i : i + 1].to(case.model.device), inverted[i]
                changed = self._changed(picture, here, here, network(here.noise))
                used = case.budget.share_used(picture.cpu(), changed.cpu())
                total = total - loss(changed, rng) + dual.penalty(used).to(total)
            return total / len(chosen)

        descent = Descent(list(network.parameters()), self.network_lr, "adamw", seed=case.seed)
        descent.run(step_loss, self.network_iterations)
        return {name: tensor.detach().cpu() for name, tensor in network.state_dict().items()}

    def _shift_of(
        self, case: ProtectionCase, first: InvertedTrajectory, here: InvertedTrajectory, dual: DualWeight, turn: int
    ) -> Tensor:
        """The shift (1, c, h, w) of one round: predicted, or descended from 0."""
        if self.shift == "network":
            message = "trajectory-shift: shift='network' needs a network trained for this model; prepare it first"
            require(case.prepared is not None, message, SettingsError)
            network = restored_network(case.prepared or {}).to(case.model.device)
            with torch.no_grad():
                predicted: Tensor = network(here.noise)
            return predicted
        picture, loss = case.picture[None].to(case.model.device), case.learning_loss(self.samples)
        shift = torch.zeros_like(here.noise, dtype=torch.float32).requires_grad_()

        def step_loss(step: int, rng: torch.Generator) -> Tensor:
            changed = self._changed(picture, first, here, shift)
            used = case.budget.share_used(picture.cpu(), changed.cpu())
            return dual.penalty(used).to(changed) - loss(changed, rng)

        done = self.iterations * turn // self.rounds
        descent = Descent([shift], self.lr, "adam", seed=case.seed + turn)
        descent.run(step_loss, self.iterations * (turn + 1) // self.rounds - done)
        return shift.detach()

    def _changed(self, picture: Tensor, first: InvertedTrajectory, here: InvertedTrajectory, shift: Tensor) -> Tensor:
        """The changed pictures (b, 3, h, w) in [0, 1]."""
        drawn = here.picture_at(shift)
        return drawn if self.base == "reconstruction" else (picture + drawn - first.reconstruction).clamp(0, 1)
