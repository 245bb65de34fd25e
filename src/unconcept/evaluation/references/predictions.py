"""What several models predict for the same noised latents, and how far their predictions are apart."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.errors import DataError, require
from ...metrics.intervals import Array
from ...metrics.never_saw import two_way_gap
from ...models import ModelView
from ...models.diffusion.vae import encode_images
from ...prompts.checks import Prompt
from ...training.token_search import training_timesteps
from ..sampling import DrawSpec, draw_prompts

_TIMESTEPS = 20
_ROWS = 64  # predicted at once


@dataclass(frozen=True)
class NoisedLatents:
    """Questions that every model gets alike: n texts, clean latents (n, c, h, w), noise (n, t, c, h, w)."""

    texts: tuple[str, ...]
    latents: Tensor
    noise: Tensor
    timesteps: Tensor

    @classmethod
    def of(
        cls, model: ModelView, texts: Sequence[str], latents: Tensor, seed: int = 0, count: int = _TIMESTEPS
    ) -> "NoisedLatents":
        """Noise latents at `count` timesteps spread evenly, by noise that depends on the seed alone."""
        require(len(texts) == len(latents), f"{len(texts)} texts for {len(latents)} latents: give one each", DataError)
        known = training_timesteps(model)
        at = ((torch.arange(count) + 0.5) / count * len(known)).long()
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(len(latents), count, *latents.shape[1:], generator=generator)
        return cls(tuple(texts), latents.cpu().float(), noise, known[at])

    def under(self, text: str) -> "NoisedLatents":
        """The same latents and noise, all under one text."""
        return NoisedLatents((text,) * len(self.texts), self.latents, self.noise, self.timesteps)


@torch.no_grad()
def drawn_latents(model: ModelView, prompts: Sequence[Prompt], spec: DrawSpec) -> Tensor:
    """Draw prompts and encode the pictures: latents (n, c, h, w) on the CPU."""
    return encode_images(model, draw_prompts(model, prompts, spec)).float().cpu()


@torch.no_grad()
def predict(model: ModelView, asked: NoisedLatents) -> Tensor:
    """Return the predictions (n, t, c, h, w) of a model as it now computes, float32 on the CPU."""
    texts, found = model.condition(asked.texts), []
    for number, timestep in enumerate(asked.timesteps):
        parts = []
        for rows in torch.arange(len(asked.texts)).split(_ROWS):
            latents, noise = (
                some[rows].to(model.device, model.dtype) for some in (asked.latents, asked.noise[:, number])
            )
            t = timestep.repeat(len(rows)).to(model.device)
            x_t = model.schedule.add_noise(latents, noise, t)
            parts.append(model.denoise(x_t, t, texts.rows(rows)).float().cpu())
        found.append(torch.cat(parts))
    return torch.stack(found, dim=1)


def squared_errors(model: ModelView, asked: NoisedLatents, predictions: Tensor) -> Array:
    """Return the mean squared error (n, t) of predictions against what was asked: noise, v or flow."""
    found = []
    for number, timestep in enumerate(asked.timesteps):
        t = timestep.repeat(len(asked.texts))
        wanted = model.schedule.training_target(asked.latents, asked.noise[:, number], t)
        found.append((predictions[:, number] - wanted).square().flatten(1).mean(1))
    return torch.stack(found, dim=1).double().numpy()


def prediction_distance(one: Tensor, other: Tensor) -> float:
    """Return the mean square of the difference of two models' predictions on the same questions."""
    require(one.shape == other.shape, f"predictions of shapes {(*one.shape,)} and {(*other.shape,)}", DataError)
    return float((one - other).square().mean())


@dataclass(frozen=True)
class TwoWayDistance:
    """Two models on what each of them drew itself."""

    gap: float
    """Two-way likelihood gap; may be negative."""
    path: float
    """Mean square of the difference of their predictions, over both sets of pictures; >= 0."""


def two_way_distance(
    model: ModelView,
    sides: tuple[NoisedLatents, NoisedLatents],
    own: tuple[Tensor, Tensor],
    other: tuple[Tensor, Tensor],
) -> TwoWayDistance:
    """Compare p and q: `sides` are the pictures of p and of q, `own` the predictions of p on both, `other` q's.

    `model` lends its noise schedule.
    """
    first, second = sides
    gap = two_way_gap(
        squared_errors(model, first, own[0]),
        squared_errors(model, first, other[0]),
        squared_errors(model, second, other[1]),
        squared_errors(model, second, own[1]),
    )
    paths = [prediction_distance(one, two) for one, two in zip(own, other, strict=True)]
    return TwoWayDistance(gap, sum(paths) / 2)
