"""Errors of the student on what is forgotten and on what is retained, in one call: of concepts, and of classes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ...core.errors import RequestError, require
from ...core.request import Request
from ...models import ModelView
from ...models.module_view import ModuleView
from ..goals import TextEncodings, goal_predictions, keep_goal
from ..images.picture_sets import PictureSet
from ..trainables import Trainable
from ..trajectories import noise_latents
from .examples import ClassRequest


@dataclass(frozen=True)
class StepErrors:
    """Mean errors of a step, and what its rows are: those to forget, then as many to retain."""

    forget: Tensor
    retain: Tensor
    keys: Sequence[str | int]  # the prompt or the label of each row
    t: Tensor | None = None  # (rows,): the timesteps of noisy latents


ErrorSource = Callable[[int, torch.Generator], StepErrors]


@dataclass(frozen=True)
class ConceptErrors:
    """Of a denoiser on noised pictures: its own training loss to forget, the distance to the teacher to retain."""

    model: ModelView
    trained: Trainable
    forget: PictureSet
    retain: PictureSet
    rows: int
    texts: TextEncodings

    def __call__(self, step: int, rng: torch.Generator) -> StepErrors:
        (lost, own), (kept, others) = (side.batch(step, self.rows) for side in (self.forget, self.retain))
        prompts = [*own, *others]
        x_t, t, noise = noise_latents(self.model, torch.cat([lost, kept]), rng)
        goals = [keep_goal(prompt) for prompt in prompts[self.rows :]]
        with self.trained.teacher():
            (wanted,) = goal_predictions(self.model, self.texts, x_t[self.rows :], t[self.rows :], [goals])
        said, held = self.model.denoise(x_t, t, self.texts(prompts)).split(self.rows)
        return StepErrors(mean_square(said - noise[: self.rows]), mean_square(held - wanted), prompts, t)


@dataclass(frozen=True)
class ClassErrors:
    """Of a classifier: cross-entropy on both sides."""

    view: ModuleView
    request: ClassRequest
    rows: int
    seed: int

    def __call__(self, step: int, rng: torch.Generator) -> StepErrors:
        sides = (self.request.forget, self.request.retain)
        lost, kept = (side.batch(step, self.rows, self.seed) for side in sides)
        labels = torch.cat([lost.y, kept.y])
        said = self.view.network(torch.cat([lost.x, kept.x])).split(self.rows)
        errors = [F.cross_entropy(logits, own.y) for logits, own in zip(said, (lost, kept), strict=True)]
        return StepErrors(errors[0], errors[1], labels.tolist())


def require_retained(method: str, request: Request) -> tuple[str, ...]:
    """Return the retained texts. Raises `RequestError` if there are none."""
    message = f"{method} forgets everything that it is not shown again, and the request retains nothing: name --retain"
    require(bool(request.retain), message, RequestError)
    return request.retain


def mean_square(gap: Tensor) -> Tensor:
    """Return the mean of squares, computed in float32."""
    return gap.float().square().mean()


def softmax_divergence(wanted: Tensor, said: Tensor) -> Tensor:
    """Return KL(softmax of the wanted || softmax of the said), both (b, d), averaged over the rows."""
    pair = (said.float().log_softmax(-1), wanted.float().log_softmax(-1))
    return F.kl_div(*pair, log_target=True, reduction="batchmean")
