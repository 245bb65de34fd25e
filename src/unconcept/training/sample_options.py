"""Augments the samples of any training: erases rectangles (Random Erasing) and skips learned samples (DOM).

A sample is the input of the denoiser at a step: noisy latents at a timestep. Trajectories, pools and noised images all
pass theirs through `augment_sample`, so methods need no code for it. Inner searches get whole samples.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import SettingsError, require
from ..models.hooks.forward import remove_on_exit
from ..models.module_view import AnyModel, ModuleView
from .gradient_transforms import GradientList
from .options import TrainingOptions
from .session import current_session, training_session

_RECTANGLE_ATTEMPTS = 100  # to find a rectangle that is narrower and lower than the sample
_TIMESTEP_BINS = 10  # The size of a loss depends on the timestep, so DOM compares within bins.
FIRST_BIN_LOSSES = 5  # The mean of so many first losses of a bin is its initial loss.


@dataclass
class SampleOptions:
    """Applies the sample options to one training: the first transform of its gradient, with its own random generator.

    Random Erasing: Zhong et al., AAAI 2020, arXiv:1708.04896. DOM, in the form that removes samples: Lin et al., ICLR
    2024, arXiv:2310.08847.
    """

    # Differs: we erase the denoiser's input, the teacher's too, because most erasures have no images; it is set to 0,
    # the mean of latents.
    # Differs: no gradient comes from inside a rectangle, or the student would learn to draw it.
    # Differs: a step is one sample, whatever its batch; if it is skipped, neither decay nor momentum moves the weights.
    # Differs: DOM's threshold is a share of the mean of the first losses near the same timestep; a plain threshold
    # would choose by timestep (inferred).
    options: TrainingOptions
    model: AnyModel
    steps: int
    seed: int
    rng: torch.Generator = field(init=False)
    first: Tensor = field(init=False)  # (bins, 2): how many losses, and their sum
    timestep_bin: int = -1  # of the current step
    is_learned: bool = False  # whether to skip the current step

    def __post_init__(self) -> None:
        message = "random_erasing and dom choose among noisy latents, and a plain network sees none: leave them out"
        chosen = self.options.random_erasing or self.options.dom
        require(not (chosen and isinstance(self.model, ModuleView)), message, SettingsError)
        self.rng = torch.Generator().manual_seed(self.seed)
        self.first = torch.zeros(_TIMESTEP_BINS, 2, dtype=torch.float64)

    @contextmanager
    def during_step(self) -> Iterator[None]:
        """Augment the samples of one step inside the block."""
        self.timestep_bin = -1
        with training_session(replace(current_session(), augment=self.augment)):
            yield

    @contextmanager
    def mask_gradients(self) -> Iterator[None]:
        """Block gradients of the denoiser's prediction inside erased rectangles."""
        hooks = (
            [self.model.modules("denoiser").register_forward_hook(_blind, with_kwargs=True)]
            if self.options.random_erasing
            else []
        )
        with remove_on_exit(hooks):
            yield

    def augment(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Return latents (b, c, h, w) at timesteps t (b,), each row with its own erased rectangle or none."""
        if isinstance(self.model, ModuleView):
            return x_t
        if self.timestep_bin < 0:  # The first sample of a step is the target's.
            self.timestep_bin = min(
                _TIMESTEP_BINS - 1, int(_TIMESTEP_BINS * float(t.float().mean()) / len(self.model.schedule.alpha))
            )
        if not self.options.random_erasing:
            return x_t
        found, cell = x_t.clone(), self.model.spec.latent_patch
        for row in found:
            if float(torch.rand((), generator=self.rng)) < self.options.random_erasing:
                top, left, h, w = (
                    cell * n
                    for n in random_rectangle(row.shape[1] // cell, row.shape[2] // cell, self.options, self.rng)
                )
                row[:, top : top + h, left : left + w] = 0
        return found

    def observe_loss(self, step: int, terms: Tensor | Mapping[str, Tensor]) -> None:
        """Decide by a step's loss, or its summand `target`, whether the step is learned.

        A step without such a loss or without a sample is never learned.
        """
        found = terms if isinstance(terms, Tensor) else terms.get("target")
        self.is_learned = False
        if not self.options.dom or found is None or self.timestep_bin < 0:
            return
        loss, (count, total) = found.item(), self.first[self.timestep_bin].tolist()
        require(
            not loss < 0,
            f"dom compares losses that fall towards 0, but this one is {loss:.3g}: leave it out",
            SettingsError,
        )
        if count < FIRST_BIN_LOSSES:
            self.first[self.timestep_bin] += torch.tensor([1.0, loss])
        else:
            self.is_learned = step >= self.options.dom_warm_up * self.steps and loss < self.options.dom * total / count

    def gradient(self, step: int, gradients: GradientList, params: Sequence[Tensor]) -> GradientList | None:
        return None if self.is_learned else gradients

    def after_step(self, params: Sequence[Tensor]) -> None:
        """Nothing to put right."""

    def state(self) -> dict[str, Tensor]:
        return {"rng": self.rng.get_state(), "first": self.first}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.rng.set_state(state["rng"])
        self.first = state["first"].clone()


def augment_sample(x_t: Tensor, t: Tensor) -> Tensor:
    """Augment latents (b, c, h, w) at timesteps t (b,) for the current training; outside of one, return them unchanged.

    The latents are never changed in place.
    """
    augment = current_session().augment
    return x_t if augment is None else augment(x_t, t)


@contextmanager
def without_augmentation() -> Iterator[None]:
    """Switch augmentation off inside the block, because a search within a step is no step of the training."""
    with training_session(replace(current_session(), augment=None)):
        yield


def random_rectangle(
    height: int, width: int, options: TrainingOptions, rng: torch.Generator
) -> tuple[int, int, int, int]:
    """Draw a rectangle (top, left, h, w) within height x width cells; 0 x 0 if none fits.

    Its share of the area, its aspect ratio and its position are uniform.
    """
    for _ in range(_RECTANGLE_ATTEMPTS):
        area = _uniform(options.sl, options.sh, rng) * height * width
        aspect = _uniform(options.r1, 1 / options.r1, rng)
        h, w = round(sqrt(area * aspect)), round(sqrt(area / aspect))
        if 0 < h < height and 0 < w < width:
            top, left = (int(torch.randint(side + 1, (), generator=rng)) for side in (height - h, width - w))
            return top, left, h, w
    return 0, 0, 0, 0


def _uniform(low: float, high: float, rng: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=rng))


def _blind(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Block the gradient of erased input: cells of (b, c, h, w), or FLUX's tokens (b, n, d), that are 0 throughout."""
    x, said = args[0] if args else kwargs["hidden_states"], out[0]
    blank = (x == 0).all(1 if x.ndim == 4 else -1, keepdim=True)
    if said.requires_grad and bool(blank.any()):
        said.register_hook(lambda g: g.masked_fill(blank, 0))
