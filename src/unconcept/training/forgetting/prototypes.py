"""Prototypes of concepts and of classes: mean features, and the distance of features to them (GS-LoRA++)."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...core.errors import ModelError, require
from ...models import ModelView
from ...models.hooks.forward import remove_on_exit
from ...models.module_view import AnyModel, ModuleView
from ..goals import TextEncodings
from ..images.picture_sets import PictureSet
from ..trajectories import noise_latents
from .errors import StepErrors, softmax_divergence
from .examples import LabelledImages

_TIMES = 8  # Features depend on the timestep, so a concept has a prototype in each of so many equal parts of the way.
_MOST_ROWS = 16  # computed at once


@contextmanager
def record_features(model: AnyModel) -> Iterator[list[Tensor]]:
    """Append the features (b, d) of each call of the network to the list.

    They are the input of a classifier's last linear map, or the mean over positions of the output in the middle of a
    denoiser: its middle block, or the middle one of its transformer blocks.
    """
    seen: list[Tensor] = []
    network = model.modules("denoiser")

    def keep_input(module: nn.Module, args: tuple[Any, ...]) -> None:
        seen.append(args[0].flatten(1))

    def keep_output(module: nn.Module, args: tuple[Any, ...], out: Any) -> None:
        h = out if isinstance(out, Tensor) else out[-1]  # A joint block gives the text's stream, then the picture's.
        seen.append(h.mean((2, 3)) if h.ndim == 4 else h.mean(1))

    if isinstance(model, ModuleView):
        linears = [module for module in network.modules() if isinstance(module, nn.Linear)]
        require(bool(linears), f"{model.name} has no linear map whose input would be its features", ModelError)
        hook = linears[-1].register_forward_pre_hook(keep_input)
    else:
        hook = _middle(network).register_forward_hook(keep_output)
    with remove_on_exit([hook]):
        yield seen


def _middle(denoiser: nn.Module) -> nn.Module:
    found = dict(denoiser.named_children())
    if "mid_block" in found:
        return found["mid_block"]
    blocks = list(found["transformer_blocks"].children())
    return blocks[len(blocks) // 2]


@dataclass(frozen=True)
class Prototypes:
    """Mean features (times, d) by prompt or label; a class has one time."""

    means: Mapping[str | int, Tensor]
    timesteps: int = 1  # of the whole way

    def distances(self, errors: StepErrors, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the distances of a step's features (2b, d): of the rows to forget, and of those to retain."""
        times = torch.zeros(len(errors.keys)) if errors.t is None else errors.t.cpu() * _TIMES // self.timesteps
        rows = zip(errors.keys, times.tolist(), strict=True)
        wanted = torch.stack([self.means[key][int(time)] for key, time in rows]).to(features)
        half = len(features) // 2
        return softmax_divergence(wanted[:half], features[:half]), softmax_divergence(wanted[half:], features[half:])


@torch.no_grad()
def class_prototypes(view: ModuleView, images: Sequence[LabelledImages]) -> Prototypes:
    """Average the features of each class under the network as it is now."""
    found: dict[str | int, Tensor] = {}
    for own in images:
        with record_features(view) as seen:
            view.network(own.x)
        found |= {label: seen[0][own.y == label].mean(0, keepdim=True) for label in own.y.unique().tolist()}
    return Prototypes(found)


@torch.no_grad()
def concept_prototypes(model: ModelView, texts: TextEncodings, pictures: Sequence[PictureSet], seed: int) -> Prototypes:
    """Average the features of each prompt's noised pictures under the model as it is now, at equal times of the way."""
    rng, length = torch.Generator().manual_seed(seed), len(model.schedule.alpha)
    times = (torch.arange(_TIMES) * length + length // 2) // _TIMES
    found: dict[str | int, Tensor] = {}
    for prompt in dict.fromkeys(prompt for own in pictures for prompt in own.prompts):
        x0 = torch.cat([_pictures_of(prompt, own) for own in pictures])
        t = times.repeat_interleave(len(x0))
        x_t, t, _ = noise_latents(model, x0.repeat(_TIMES, 1, 1, 1), rng, t)
        with record_features(model) as seen:
            for rows in torch.arange(len(t)).split(_MOST_ROWS):
                model.denoise(x_t[rows], t[rows], texts([prompt] * len(rows)))
        found[prompt] = torch.cat(seen).unflatten(0, (_TIMES, len(x0))).mean(1)
    return Prototypes(found, length)


def _pictures_of(prompt: str, pictures: PictureSet) -> Tensor:
    return pictures.latents[[own == prompt for own in pictures.prompts]]
