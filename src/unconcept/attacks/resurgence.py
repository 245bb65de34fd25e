"""Concept resurgence: Suriyakumar et al., arXiv:2410.08074 (all figures inferred: we did not have the paper's body).

There is no adversary: fine-tunes the edited model on images without the concept, to see whether it comes back.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..core.errors import RequestError, require
from ..edits import Edit
from ..models.diffusion.vae import encode_images
from ..models.hooks.modules import attention_linears, denoiser_parameters
from ..training import Descent, StepLoss, TrainableLowRank, TrainableWeights
from ..training.token_search import denoising_error, training_timesteps
from .registry import AttackAttempt, AttackCase, AttackInput, attack, require_positive_settings

_LEARNING_RATES = {"lora": 1e-4, "full": 1e-5}  # usual in diffusers (inferred)


@attack(
    "resurgence",
    paper="arXiv:2410.08074",
    rung="weights",
    scope="concept",
    families=("sd1", "sd2", "sdxl", "sd3", "flux"),
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
        wide = case.model.dtype in (torch.float32, torch.float64)
        require(
            self.mode == "lora" or wide,
            f"resurgence: mode 'full' in {case.model.dtype} would lose small steps: use float32 or mode 'lora'",
        )
        yield self._attempt(case, 0, None, None)
        with torch.no_grad():
            latents = encode_images(case.model, case.unrelated[1])
        with case.edit_applied():
            trained = self._trained(case)
        descent = Descent(
            list(trained.tensors.values()),
            _LEARNING_RATES[self.mode] if self.lr is None else self.lr,
            "adamw",
            self.weight_decay,
            case.seed,
        )
        for stop in self.checkpoints:
            if not case.unsolved:
                return
            with case.edit_applied():
                loss = self._loss(case, case.unrelated[0], latents)
                with trained.student():
                    losses = descent.run(loss, stop - descent.done)
                weights = trained.edit({})
            yield self._attempt(case, stop, weights, sum(losses) / len(losses))

    def _trained(self, case: AttackCase) -> TrainableLowRank | TrainableWeights:
        """Build adapters on every attention of the denoiser, or train all of it, from the edited model's weights."""
        if self.mode == "lora":
            return TrainableLowRank(case.model, attention_linears(case.model), self.rank, case.seed)
        return TrainableWeights(case.model, tuple(denoiser_parameters(case.model)))

    def _loss(self, case: AttackCase, captions: tuple[str, ...], latents: Tensor) -> StepLoss:
        """Build the denoising loss of images under their captions. The text encoder is not trained."""
        model, timesteps = case.model, training_timesteps(case.model)
        with torch.no_grad():
            texts = model.condition(captions)

        def loss(step: int, rng: torch.Generator) -> Tensor:
            which = torch.randint(len(latents), (self.batch_size,), generator=rng)
            t = timesteps[torch.randint(len(timesteps), (self.batch_size,), generator=rng)].to(model.device)
            noise = torch.randn(len(which), *latents.shape[1:], generator=rng).to(latents)
            return denoising_error(model, texts.rows(which), latents[which], noise, t).mean()

        return loss

    def _attempt(self, case: AttackCase, steps: int, weights: Edit | None, loss: float | None) -> AttackAttempt:
        left = case.unsolved
        return AttackAttempt(steps, {i: AttackInput(case.prompts[i], weights=weights) for i in left}, loss)
