"""Edits that move the latents while a sampler draws, down a loss on the attention to a prompt's words."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from ..core.errors import EditError, require
from ..linalg.attention_losses import retention_loss, segregation_loss, strongest_places
from ..models import ModelView
from ..models.diffusion.callbacks import SamplingCallbacks, SamplingStep, callbacks_on
from ..models.hooks.attention_maps import grid_sides, record_attention, text_attentions
from ..models.hooks.stock_loop import watch_stock_loop
from ..models.text.prompt_tracking import TokenIds, track_prompts
from .common import SamplerEdit
from .edit_file import StoredEdit
from .registry import edit_kind
from .weights import require_same_base

_SHARPNESS = 100.0  # Attend-and-Excite's factor before its softmax over tokens


@dataclass(frozen=True)
class AttentionSteering:
    """How A-STAR moves the latents."""

    step_size: float
    """Factor of the gradient at the first step; it falls to its square root's half at the last."""
    largest_move: float
    """Most that one step may change a latent."""
    side: int
    """Side of the attention maps; those of the nearest size are averaged."""
    share: float
    """Share of places that a concept holds in the next step."""
    segregation: float
    """Weight of the overlap of concepts."""
    retention: float
    """Weight of the places lost since the step before."""

    def __post_init__(self) -> None:
        sizes = all(isfinite(value) and value >= 0 for value in vars(self).values())
        require(sizes, f"its steering is {vars(self)}: give finite numbers from 0", EditError)
        require(0 < self.share < 1 and self.side > 0, "its share is above 0 and below 1, its side above 0", EditError)

    def size_at(self, progress: float) -> float:
        """The factor of the gradient after a share of the steps: Attend-and-Excite's schedule."""
        size: float = self.step_size * (1 - progress / 2) ** 0.5
        return size


@edit_kind("latent-steering")
@dataclass(frozen=True)
class LatentSteeringEdit(SamplerEdit):
    """Keeps the concepts that a prompt names apart, and where they were, while this library or a pipeline draws.

    Prompts that name none of them are left as they are.
    """

    concepts: tuple[str, ...]
    maps: tuple[str, ...]  # full names of the text maps whose attentions it reads
    steering: AttentionSteering

    def __post_init__(self) -> None:
        require(bool(self.concepts) and bool(self.maps), "it names no concepts or no maps", EditError)

    @property
    def bound_names(self) -> tuple[str, ...]:
        return self.maps

    @contextmanager
    def applied(self, model: ModelView) -> Iterator[None]:
        """Steer what is drawn inside the block. Raises `EditError` with both hashes if the edit is for other weights.

        Encode texts inside it too, so that their tokens are known.
        """
        require_same_base(self.origin, model, self.maps)
        if self.strength == 0:
            yield
            return
        words = [model.tokenizer([concept]).ids[0][1:-1] for concept in self.concepts]
        denoiser = model.modules("denoiser")
        with track_prompts(model) as ids_of, watch_stock_loop(model.checkpoint.built_pipeline, denoiser, model.spec):
            run = _SteeringRun(model, self, words, ids_of)
            with callbacks_on(denoiser, SamplingCallbacks(before=run.move, start=run.restart)):
                yield

    def describe(self) -> str:
        return "changes no weight but moves the latents while sampling"

    def details(self) -> dict[str, Any]:
        told = {"concepts": list(self.concepts), "maps": list(self.maps), "strength": self.strength}
        return told | {"steering": asdict(self.steering)}

    @classmethod
    def from_stored(cls, stored: StoredEdit) -> "LatentSteeringEdit":
        """Invert `save`. Raises `EditError` if something is missing or has another type."""
        steering = AttentionSteering(**stored.numbers("steering", AttentionSteering))
        texts, strength = (stored.texts("concepts"), stored.texts("maps")), stored.number("strength")
        return cls(*texts, steering, strength=strength, origin=stored.origin)


@dataclass
class _SteeringRun:
    """One edit while it is applied; it remembers each concept's places from the step before."""

    model: ModelView
    edit: LatentSteeringEdit
    words: Sequence[TokenIds]
    ids_of: Callable[[Tensor], list[TokenIds | None]]
    held: dict[int, Tensor] = field(default_factory=dict)  # by row: (m, p)

    def restart(self, negatives: int | None) -> None:
        """Forget the places: a new loop begins."""
        self.held.clear()

    def move(self, at: SamplingStep) -> Tensor | None:
        """Move the latents of prompts that name a concept down the loss."""
        prompts = at.guidance.prompts
        found = [self._positions(ids) for ids in self.ids_of(prompts.states)]
        rows = [row for row, concepts in enumerate(found) if concepts]
        if not rows:
            return None
        with torch.enable_grad():
            x = at.latents[rows].detach().requires_grad_()
            places, side = text_attentions(self.model), self.edit.steering.side
            with record_attention(self.model, places) as kept:
                self.model.denoise(at.scale_input(x), at.t, prompts.rows(torch.tensor(rows, device=x.device)))
            attention = averaged_attention([maps for (maps,) in kept.values()], (x.shape[2], x.shape[3]), side)
            loss = sum(self._loss(row, concept_maps(attention[i], found[row])) for i, row in enumerate(rows))
            (slope,) = torch.autograd.grad(loss, x, allow_unused=True) if isinstance(loss, Tensor) else (None,)
        if slope is None:
            return None
        steering = self.edit.steering
        size = self.edit.strength * steering.size_at(at.k / at.calls)
        moved = at.latents.clone()
        moved[rows] -= (size * slope).clamp(-steering.largest_move, steering.largest_move).to(moved)
        return moved

    def _loss(self, row: int, maps: Tensor) -> Tensor:
        steering, before = self.edit.steering, self.held.get(row)
        self.held[row] = strongest_places(maps, steering.share)
        loss = steering.segregation * segregation_loss(maps)
        return loss if before is None else loss + steering.retention * retention_loss(maps, before)

    def _positions(self, ids: TokenIds | None) -> list[list[int]]:
        """The positions of each named concept's tokens in a prompt; of overlapping ones the longest is meant."""
        spans = sorted((_span(ids or (), word) for word in self.words), key=len, reverse=True)
        taken: list[list[int]] = []
        for span in spans:
            if span and all(set(span).isdisjoint(other) for other in taken):
                taken.append(span)
        return taken


def _span(ids: TokenIds, word: TokenIds) -> list[int]:
    """The positions of the first occurrence of a word's tokens; empty if there is none."""
    count = len(word)
    starts = (i for i in range(len(ids) - count + 1) if ids[i : i + count] == tuple(word))
    first = next(starts, None) if count else None
    return [] if first is None else list(range(first, first + count))


def averaged_attention(maps: Sequence[Tensor], sides: tuple[int, int], side: int) -> Tensor:
    """The mean (b, p, l) over heads and over the attentions (b, heads, p, l) whose longer side is nearest to `side`."""
    longest = [max(grid_sides(sides, each.shape[2])) for each in maps]
    best = min(longest, key=lambda own: abs(own - side))
    return torch.stack([each.mean(1) for each, own in zip(maps, longest, strict=True) if own == best]).mean(0)


def concept_maps(attention: Tensor, concepts: Sequence[Sequence[int]]) -> Tensor:
    """Maps (m, p) of concepts at token positions, from attention (p, l).

    (inferred) As in Attend-and-Excite, a sharpened softmax over all tokens but the first; a concept's are averaged.
    """
    sharp = torch.softmax(_SHARPNESS * attention[:, 1:], -1)
    return torch.stack([sharp[:, torch.tensor(list(places)) - 1].mean(1) for places in concepts])
