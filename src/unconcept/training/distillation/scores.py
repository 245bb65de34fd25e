"""Scores that a student of few steps is taught by: the teacher's, and a fake one that learns what the student draws."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor

from ...core.errors import NumericsError
from ...models import Conditioning, ModelView
from ...models.hooks.parameters import freeze_parameters
from ..distributed import ProcessGroup
from ..goals import TextEncodings
from ..loop import Descent
from ..trainables import Trainable
from .rollout import predict_clean, wide

# Shares of the training timesteps between which scores are compared and learned (SiD: 20 to 979 of 1,000).
LOWEST_SHARE, HIGHEST_SHARE = 0.02, 0.98
FAKE_BETAS = (0.0, 0.999)
_LARGEST_ERROR = 100.0  # mean squared, of noise of unit variance


def draw_timesteps(model: ModelView, rows: int, rng: torch.Generator) -> Tensor:
    """Uniform timesteps (rows,) at which scores are compared."""
    levels = len(model.schedule.alpha)
    low, high = int(LOWEST_SHARE * levels), int(HIGHEST_SHARE * levels)
    return torch.randint(low, high, (rows,), generator=rng).to(model.device)


def draw_noise(model: ModelView, like: Tensor, rng: torch.Generator) -> Tensor:
    """Noise in the shape of latents (b, c, h, w)."""
    return torch.randn(like.shape, generator=rng).to(model.device, like.dtype)


def guided_clean(
    model: ModelView,
    texts: Conditioning,
    away: Conditioning,
    x_t: Tensor,
    t: Tensor,
    scale: float | Tensor = 1.0,
) -> Tensor:
    """Clean latents (b, c, h, w) predicted under guidance: away + scale (texts - away).

    `scale` is a number or has a value for each row (b,). At 1 the texts alone are read, at 0 the other side alone.
    """
    if isinstance(scale, float | int):
        if scale in (0, 1):
            return predict_clean(model, x_t, t, texts if scale == 1 else away)
        factor: float | Tensor = scale
    else:
        factor = scale.to(x_t).view(-1, 1, 1, 1)
    both = Conditioning.concatenate([away, texts])
    empty, said = predict_clean(model, torch.cat([x_t] * 2), torch.cat([t] * 2), both).chunk(2)
    return empty + factor * (said - empty)


@dataclass(frozen=True)
class DrawnLatents:
    """Latents (b, c, h, w) that the student drew, the text that the fake score knows each by, and their weight."""

    latents: Tensor
    captions: Sequence[str]
    weight: float = 1.0


@dataclass
class FakeScore:
    """A denoiser that begins as the teacher and learns to predict the noise in what the student draws.

    It has a descent of its own, whose gradients all processes of a training share.
    """

    trained: Trainable
    texts: TextEncodings
    lr: float
    guidance: float = 1.0
    """Scale of guidance inside its own prediction while it learns: 0 never reads a text (Zero-CFG)."""
    empty_share: float = 0.0
    """Share of texts that are left empty while it learns, so that both sides of guidance are known."""
    seed: int = 0
    around: Callable[[], AbstractContextManager[None]] | None = None
    """Entered around its use where the student is trained beside the same model: it switches the student off."""
    descent: Descent = field(init=False)

    def __post_init__(self) -> None:
        processes = ProcessGroup(self.model.device, is_distributed=True)
        tensors = list(self.trained.tensors.values())
        self.descent = Descent(tensors, self.lr, betas=FAKE_BETAS, seed=self.seed, processes=processes)

    @property
    def model(self) -> ModelView:
        """The teacher's model, beside whose weights it is trained."""
        return cast(ModelView, self.trained.model)

    def alone(self) -> AbstractContextManager[None]:
        """A block in which the model is the teacher."""
        return nullcontext() if self.around is None else self.around()

    def clean(self, captions: Sequence[str], x_t: Tensor, t: Tensor, scale: float) -> Tensor:
        """Clean latents (b, c, h, w) that it predicts; differentiable in x_t alone."""
        with self.alone(), self.trained.student(), _constant(self.trained):
            return guided_clean(self.model, *self._sides(captions), x_t, t, scale)

    def learn(self, drawn: Sequence[DrawnLatents]) -> float:
        """Take one step on all latents, whose graphs it leaves alone. Return the error before it.

        Raises `NumericsError` if it diverges.
        """

        def loss(step: int, rng: torch.Generator) -> Tensor:
            return torch.stack([part.weight * self._error(part, rng) for part in drawn]).sum()

        try:
            with torch.enable_grad(), self.alone(), self.trained.student():
                (found,) = self.descent.run(loss, 1)
        except NumericsError as error:
            raise NumericsError(f"the fake score diverged: {error}") from None
        finally:
            torch.clear_autocast_cache()  # It holds casts of weights that have just moved.
        if not found < _LARGEST_ERROR:
            raise NumericsError(f"the fake score diverged, its error became {found:.3g}: give it a smaller lr")
        return found

    def _error(self, drawn: DrawnLatents, rng: torch.Generator) -> Tensor:
        """Mean squared error of the predicted noise."""
        x, schedule = drawn.latents.detach(), self.model.schedule
        t, noise = draw_timesteps(self.model, len(x), rng), draw_noise(self.model, x, rng)
        blank = torch.rand(len(x), generator=rng) < self.empty_share
        captions = ["" if is_blank else text for text, is_blank in zip(drawn.captions, blank.tolist(), strict=True)]
        x_t = schedule.add_noise(x, noise, t)
        texts, away = self._sides(captions)
        if self.guidance in (0, 1):
            said = wide(self.model.denoise(x_t, t, texts if self.guidance == 1 else away))
            return (schedule.epsilon(said, x_t, t) - noise).square().mean()
        clean = guided_clean(self.model, texts, away, x_t, t, self.guidance)
        # noise = (x_t - a x0) / s, so its error is that of x0 by a / s.
        ratio = (schedule.alpha / schedule.sigma).to(x_t)[t].view(-1, 1, 1, 1)
        return (ratio * (clean - x)).square().mean()

    def _sides(self, captions: Sequence[str]) -> tuple[Conditioning, Conditioning]:
        return self.texts(captions), self.texts([""] * len(captions))

    def state(self) -> Mapping[str, Tensor]:
        return self.descent.state()

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.descent.restore(state)


@contextmanager
def _constant(trained: Trainable) -> Iterator[None]:
    """Hold the trained tensors and the denoiser constant inside the block."""
    tensors = list(trained.tensors.values())
    try:
        for tensor in tensors:
            tensor.requires_grad_(False)
        with freeze_parameters([trained.model.modules("denoiser")]):
            yield
    finally:
        for tensor in tensors:
            tensor.requires_grad_(True)
