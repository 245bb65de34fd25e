"""Tools of token searches in attacks and adversarial methods: relaxed tokens, soft rows, free tokens in a prompt.

A search works on rows of the token embedding. Every encoder of the model has rows of its own width. One choice of ids
serves all of one kind (SDXL has two CLIPs); T5 beside CLIP has its own.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ..core.seeds import numbered_seed
from ..models import Conditioning, ModelView
from ..models.diffusion.schedulers import flow_timesteps
from ..models.family import EncoderKind
from ..models.model_view import SoftPrompts
from ..models.text.tokenizer import TextTokenizer
from ..models.text.vocabulary import (
    encoder_kinds,
    pad_ids,
    untypable_ids,
    vocabulary_of,
    word_ids,
)
from .gradient_transforms import GradientList

TokenPlacement = Literal["prefix", "suffix", "mid", "insert", "spread"]
_SPREAD_STRIDE = 3  # "spread" puts a free token before every third token
_BISECTIONS = 60


@dataclass(frozen=True)
class FreeTokenSlots:
    """A text with free tokens: `ids` without start and end token, and the positions of the free ones among them."""

    ids: tuple[int, ...]
    free_positions: tuple[int, ...]

    def fill(self, tokens: Sequence[int]) -> tuple[int, ...]:
        """Return the ids with the free ones set to `tokens`; surplus tokens are ignored."""
        found = list(self.ids)
        for place, token in zip(self.free_positions, tokens, strict=False):
            found[place] = int(token)
        return tuple(found)


def insert_free_tokens(ids: Sequence[int], count: int, place: TokenPlacement, room: int) -> FreeTokenSlots:
    """Insert `count` free tokens into a prompt's ids, and cut the prompt's end if both do not fit into `room` tokens.

    prefix, suffix, mid: in one piece; insert: at even distances; spread: one before every third token, whatever `count`
    is.
    """
    if place == "spread":
        return spread_free_tokens(ids, _SPREAD_STRIDE, room)
    kept = tuple(ids[: room - count])
    fronts = {"prefix": [0] * count, "suffix": [len(kept)] * count, "mid": [len(kept) // 2] * count}
    return _insert(kept, fronts.get(place, [j * len(kept) // count for j in range(count)]))


def spread_free_tokens(ids: Sequence[int], every: int, room: int) -> FreeTokenSlots:
    """Insert one free token before every group of `every` tokens and one after a last full group: n // every + 1."""
    most = room - 1 - room // (every + 1)
    kept = tuple(ids[:most])
    return _insert(kept, list(range(0, len(kept) + 1, every)))


def _insert(ids: tuple[int, ...], fronts: Sequence[int]) -> FreeTokenSlots:
    """Insert a free token (id 0) before each of the numbered tokens, in order."""
    found = list(ids)
    at = [front + i for i, front in enumerate(fronts)]
    for place in at:
        found.insert(place, 0)
    return FreeTokenSlots(tuple(found), tuple(at))


@dataclass(frozen=True)
class TokenVocabulary:
    """Token embeddings of encoders of one kind as they now compute: build it while the edit is applied."""

    tokenizer: TextTokenizer
    tables: tuple[Tensor, ...]  # (v, d_e) for each encoder

    @classmethod
    def of(cls, model: ModelView, kind: EncoderKind | None = None) -> "TokenVocabulary":
        """The vocabulary of the encoders of one kind; None: of those whose states the denoiser reads first."""
        return cls(*vocabulary_of(model, kind or model.spec.first_encoder.kind))

    def __len__(self) -> int:
        return len(self.tables[0])

    @property
    def is_typable(self) -> Tensor:
        """Mask (v,) bool of the tokens that text can produce: all but start and end token, and T5's padding."""
        found = torch.ones(len(self), dtype=torch.bool)
        found[list(untypable_ids(self.tokenizer))] = False
        return found

    def random_ids(self, shape: Sequence[int], rng: torch.Generator) -> Tensor:
        """Draw ids of typable tokens."""
        plain = self.is_typable.nonzero()[:, 0]
        return plain[torch.randint(len(plain), tuple(shape), generator=rng)]

    def rows(self, ids: Tensor) -> tuple[Tensor, ...]:
        """Return the rows (.., d_e) of the ids for each encoder."""
        return tuple(table[ids.to(table.device)] for table in self.tables)

    def mix_rows(self, weights: Tensor) -> tuple[Tensor, ...]:
        """Return the rows (.., d_e) of one-hot or relaxed tokens (.., v) for each encoder."""
        return tuple(weights.to(table) @ table for table in self.tables)

    def vectors(self, ids: Tensor) -> Tensor:
        """Return the rows of all encoders concatenated (.., sum of d_e)."""
        return torch.cat(self.rows(ids), -1)

    def split(self, vectors: Tensor) -> tuple[Tensor, ...]:
        """Split concatenated rows into those of each encoder."""
        parts: tuple[Tensor, ...] = vectors.split([table.shape[1] for table in self.tables], -1)
        return parts

    def nearest(self, vectors: Tensor) -> Tensor:
        """Return the ids (..) of the typable tokens whose rows are nearest by cosine (PEZ, P4D)."""
        table = F.normalize(torch.cat(self.tables, -1), dim=-1)
        likeness = F.normalize(vectors.detach().to(table), dim=-1) @ table.T
        return likeness.masked_fill(~self.is_typable.to(table.device), -2.0).argmax(-1).cpu()

    def prompts(self, texts: Sequence[FreeTokenSlots], rows: Sequence[Tensor]) -> SoftPrompts:
        """Build prompts (b) whose free tokens have the rows (b, k, d_e), k the largest number in one text.

        If a text has fewer, its surplus rows replace a token that is never free by itself: the start token, or in T5
        the last one, the end token or padding.
        """
        k = max(len(text.free_positions) for text in texts)
        ids = pad_ids(self.tokenizer, [text.ids for text in texts])
        front, back = self.tokenizer.around
        before = len(front)
        spare = 0 if before else ids.shape[1] - 1
        at = torch.full((len(texts), k), spare)
        for row, text in zip(at, texts, strict=True):
            start = self.tokenizer.start_of(before + len(text.ids) + len(back))
            row[: len(text.free_positions)] = torch.tensor(text.free_positions) + before + start
        own = [row[:, None] for row in self.rows(ids[:, spare])]
        used = (at != spare)[..., None]
        kept = tuple(
            torch.where(used.to(part.device), part[:, :k], row.to(part)) for part, row in zip(rows, own, strict=True)
        )
        return SoftPrompts(ids, at, kept)

    def plain_prompts(self, texts: Sequence[str]) -> SoftPrompts:
        """Prompts of texts, without free tokens."""
        slots = [FreeTokenSlots(word_ids(self.tokenizer, text), ()) for text in texts]
        return self.prompts(slots, [table.new_zeros(len(texts), 0, table.shape[1]) for table in self.tables])


def join_prompts(
    vocabularies: Mapping[EncoderKind, TokenVocabulary],
    searched: Mapping[EncoderKind, SoftPrompts],
    texts: Sequence[str],
) -> SoftPrompts:
    """Prompts for all encoders of a model, by their vocabularies; those of a kind that is not searched read texts."""
    parts = {
        kind: searched[kind] if kind in searched else own.plain_prompts(texts) for kind, own in vocabularies.items()
    }
    first, *others = parts.values()
    return replace(first, t5=others[0]) if others else first


def all_vocabularies(model: ModelView) -> dict[EncoderKind, TokenVocabulary]:
    """The vocabulary of each kind of encoder that the model has, as it now computes."""
    return {kind: TokenVocabulary.of(model, kind) for kind in encoder_kinds(model)}


@dataclass
class SearchGradient:
    """The gradient transform of a search: the gradient or its sign.

    With `adds_up`, gradients add up from step to step, as in code that never zeroes them.
    """

    is_sign: bool
    adds_up: bool
    before: GradientList = field(default_factory=list)

    def gradient(self, step: int, gradients: GradientList, params: Sequence[Tensor]) -> GradientList:
        found = (
            [g + old for g, old in zip(gradients, self.before, strict=True)]
            if self.adds_up and self.before
            else gradients
        )
        self.before = [g.sign() for g in found] if self.is_sign else found
        return self.before

    def after_step(self, params: Sequence[Tensor]) -> None:
        """Nothing to put right."""


def straight_through_nearest(vectors: Tensor, vocabulary: TokenVocabulary) -> Tensor:
    """Return the nearest rows; the gradient passes to the vectors unchanged (straight-through, P4D)."""
    found = vocabulary.vectors(vocabulary.nearest(vectors)).to(vectors)
    rows: Tensor = _Through.apply(vectors, found, None)
    return rows


def sample_tokens(weights: Tensor, rngs: Sequence[torch.Generator]) -> Tensor:
    """Draw one-hot tokens (b, k, v) from rows of the simplex, with one generator for each text.

    The backward pass clamps the gradient to [-1, 1] (straight-through with hardtanh, UnlearnDiffAtk).
    """
    drawn = [
        torch.multinomial(part.detach().cpu(), 1, generator=rng)[:, 0] for part, rng in zip(weights, rngs, strict=True)
    ]
    one_hot = F.one_hot(torch.stack(drawn), weights.shape[-1]).to(weights)
    tokens: Tensor = _Through.apply(weights, one_hot, 1.0)
    return tokens


class _Through(torch.autograd.Function):
    """Returns another value in the forward pass, and in the backward pass the gradient, clamped if a bound is given."""

    @staticmethod
    def forward(ctx: Any, searched: Tensor, value: Tensor, bound: float | None) -> Tensor:
        ctx.bound = bound
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return (grads[0] if ctx.bound is None else grads[0].clamp(-ctx.bound, ctx.bound)), None, None


def project_to_simplex(weights: Tensor, allowed: Tensor | None = None) -> Tensor:
    """Return the nearest rows (.., v) with non-negative entries that sum to 1: clip(a - mu, 0, 1), mu by bisection.

    Entries where `allowed` (v,) is False are 0.
    """
    wide = weights.detach().double()
    if allowed is not None:
        wide = wide.masked_fill(~allowed.to(wide.device), -torch.inf)
    high = wide.amax(-1, keepdim=True)
    low = high - 1
    for _ in range(_BISECTIONS):
        mu = (low + high) / 2
        above = (wide - mu).clamp(0, 1).sum(-1, keepdim=True) > 1
        low, high = torch.where(above, mu, low), torch.where(above, high, mu)
    return (wide - (low + high) / 2).clamp(0, 1).to(weights.dtype)


def denoising_error(model: ModelView, texts: Conditioning, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Return the mean squared error (b,) of the prediction (noise, v or flow) on noised latents (b, c, h, w).

    It is the model's own training loss, and differentiable in the texts.
    """
    schedule = model.schedule
    x_t = schedule.add_noise(latents, noise, t)
    return (
        (model.denoise(x_t, t, texts) - schedule.training_target(latents, noise, t)).float().square().flatten(1).mean(1)
    )


def training_timesteps(model: ModelView) -> Tensor:
    """All timesteps (T,) at which the model was trained, ascending; a flow's as its own scheduler shifts them."""
    count = len(model.schedule.alpha)
    return flow_timesteps(model, count - 1) if model.schedule.prediction_type == "flow" else torch.arange(count)


def random_generators(seed: int, numbers: Iterable[int]) -> dict[int, torch.Generator]:
    """Return one random generator for each prompt, so that a search does not depend on the other prompts."""
    return {i: torch.Generator().manual_seed(numbered_seed(seed, i)) for i in numbers}


def normal_noise(shape: Sequence[int], rngs: Sequence[torch.Generator]) -> Tensor:
    """Draw noise (b, *shape) of unit variance, one generator for each row."""
    return torch.stack([torch.randn(tuple(shape), generator=rng) for rng in rngs])
