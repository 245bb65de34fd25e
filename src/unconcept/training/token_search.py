"""What attacks and adversarial methods search with: tokens relaxed over the vocabulary, soft rows, layouts of a prompt.

Text is searched as rows of the token embedding, which every encoder of the model reads in its own width: one choice of
ids serves them all (SDXL's two).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ..models import Conditioning, ModelView
from ..models.model_view import SoftPrompts
from ..models.text.tokenizer import ClipTokenizer
from ..models.text.vocabulary import pad_ids, special_ids, token_tables
from .gradient_transforms import GradientList

TokenPlacement = Literal["prefix", "suffix", "mid", "insert", "spread"]
_SPREAD_STRIDE = 3  # with "spread", a free token stands in front of every third one
_BISECTIONS = 60


@dataclass(frozen=True)
class FreeTokenSlots:
    """A text with free tokens: `ids` without start and end token, and where among them the free ones stand."""

    ids: tuple[int, ...]
    free_positions: tuple[int, ...]

    def fill(self, tokens: Sequence[int]) -> tuple[int, ...]:
        """Ids with the free ones set; tokens beyond the free ones are not needed."""
        found = list(self.ids)
        for place, token in zip(self.free_positions, tokens, strict=False):
            found[place] = int(token)
        return tuple(found)


def insert_free_tokens(ids: Sequence[int], count: int, place: TokenPlacement, room: int) -> FreeTokenSlots:
    """`count` free tokens in a prompt's ids, which is cut at its end where both do not fit into `room` tokens.

    prefix, suffix, mid: in one piece; insert: at even distances; spread: one in front of every third token, so that
    `count` does not matter.
    """
    if place == "spread":
        return spread_free_tokens(ids, _SPREAD_STRIDE, room)
    kept = tuple(ids[: room - count])
    fronts = {"prefix": [0] * count, "suffix": [len(kept)] * count, "mid": [len(kept) // 2] * count}
    return _insert(kept, fronts.get(place, [j * len(kept) // count for j in range(count)]))


def spread_free_tokens(ids: Sequence[int], every: int, room: int) -> FreeTokenSlots:
    """One free token in front of every `every` tokens, and one at the end of a last full
    group: n // every + 1 in all.
    """
    most = room - 1 - room // (every + 1)
    kept = tuple(ids[:most])
    return _insert(kept, list(range(0, len(kept) + 1, every)))


def _insert(ids: tuple[int, ...], fronts: Sequence[int]) -> FreeTokenSlots:
    """A free token (id 0) in front of each of the numbered tokens, in order."""
    found = list(ids)
    at = [front + i for i, front in enumerate(fronts)]
    for place in at:
        found.insert(place, 0)
    return FreeTokenSlots(tuple(found), tuple(at))


@dataclass(frozen=True)
class TokenVocabulary:
    """Token embeddings of a model's encoders as it computes with them: ask for it inside an edit."""

    tokenizer: ClipTokenizer
    tables: tuple[Tensor, ...]  # (v, d_e) for each encoder

    @classmethod
    def of(cls, model: ModelView) -> "TokenVocabulary":
        return cls(model.tokenizer, token_tables(model))

    def __len__(self) -> int:
        return len(self.tables[0])

    @property
    def is_typable(self) -> Tensor:
        """(v,) bool: tokens that stand for text. Start and end token cannot be typed."""
        found = torch.ones(len(self), dtype=torch.bool)
        found[list(special_ids(self.tokenizer))] = False
        return found

    def random_ids(self, shape: Sequence[int], rng: torch.Generator) -> Tensor:
        """Ids of random plain tokens."""
        plain = self.is_typable.nonzero()[:, 0]
        return plain[torch.randint(len(plain), tuple(shape), generator=rng)]

    def rows(self, ids: Tensor) -> tuple[Tensor, ...]:
        """(.., d_e) for each encoder."""
        return tuple(table[ids.to(table.device)] for table in self.tables)

    def mix_rows(self, weights: Tensor) -> tuple[Tensor, ...]:
        """Rows (.., d_e) of one-hot or relaxed tokens (.., v)."""
        return tuple(weights.to(table) @ table for table in self.tables)

    def vectors(self, ids: Tensor) -> Tensor:
        """Rows of all encoders side by side (.., sum of d_e)."""
        return torch.cat(self.rows(ids), -1)

    def split(self, vectors: Tensor) -> tuple[Tensor, ...]:
        """The inverse of standing side by side."""
        parts: tuple[Tensor, ...] = vectors.split([table.shape[1] for table in self.tables], -1)
        return parts

    def nearest(self, vectors: Tensor) -> Tensor:
        """Ids (..) of the plain tokens whose rows are nearest by cosine (PEZ, P4D)."""
        table = F.normalize(torch.cat(self.tables, -1), dim=-1)
        likeness = F.normalize(vectors.detach().to(table), dim=-1) @ table.T
        return likeness.masked_fill(~self.is_typable.to(table.device), -2.0).argmax(-1).cpu()

    def prompts(self, texts: Sequence[FreeTokenSlots], rows: Sequence[Tensor]) -> SoftPrompts:
        """Prompts (b) whose free tokens are read as rows (b, k, d_e), k the most that one of them has.

        Where a text has fewer, the rest is put on the start token, as the start token.
        """
        k = max(len(text.free_positions) for text in texts)
        at = torch.zeros(len(texts), k, dtype=torch.long)
        for row, text in zip(at, texts, strict=True):
            row[: len(text.free_positions)] = torch.tensor(text.free_positions) + 1
        start = self.rows(torch.tensor(special_ids(self.tokenizer)[0]))
        used = (at > 0)[..., None]
        kept = tuple(
            torch.where(used.to(part.device), part[:, :k], own.to(part)) for part, own in zip(rows, start, strict=True)
        )
        return SoftPrompts(pad_ids(self.tokenizer, [text.ids for text in texts]), at, kept)


@dataclass
class SearchGradient:
    """What a search follows: the gradient or its sign, each step's own, or added to that of the step before, as where
    it is never zeroed.
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
    """The nearest rows, with the gradient handed to the vectors as it is (straight-through, P4D)."""
    found = vocabulary.vectors(vocabulary.nearest(vectors)).to(vectors)
    rows: Tensor = _Through.apply(vectors, found, None)
    return rows


def sample_tokens(weights: Tensor, rngs: Sequence[torch.Generator]) -> Tensor:
    """One-hot tokens (b, k, v) drawn from rows of the simplex, one generator a text; the gradient is clamped to
    [-1, 1] on its way back (straight-through with hardtanh, UnlearnDiffAtk).
    """
    drawn = [
        torch.multinomial(part.detach().cpu(), 1, generator=rng)[:, 0] for part, rng in zip(weights, rngs, strict=True)
    ]
    one_hot = F.one_hot(torch.stack(drawn), weights.shape[-1]).to(weights)
    tokens: Tensor = _Through.apply(weights, one_hot, 1.0)
    return tokens


class _Through(torch.autograd.Function):
    """Forward another value, backward the gradient itself, clamped where a bound is given."""

    @staticmethod
    def forward(ctx: Any, searched: Tensor, value: Tensor, bound: float | None) -> Tensor:
        ctx.bound = bound
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return (grads[0] if ctx.bound is None else grads[0].clamp(-ctx.bound, ctx.bound)), None, None


def project_to_simplex(weights: Tensor, allowed: Tensor | None = None) -> Tensor:
    """The nearest rows (.., v) with non-negative entries that sum to 1: clip(a - mu, 0, 1), mu by bisection.

    Where `allowed` (v,) is False the entry is 0.
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
    """(b,) mean squared errors of the prediction on noised latents (b, c, h, w): of the noise, or of v.

    The loss the model was trained with, under texts of the caller's; differentiable in them.
    """
    schedule = model.schedule
    x_t = schedule.add_noise(latents, noise, t)
    return (
        (model.denoise(x_t, t, texts) - schedule.training_target(latents, noise, t)).float().square().flatten(1).mean(1)
    )


def random_generators(seed: int, numbers: Iterable[int]) -> dict[int, torch.Generator]:
    """One random generator a prompt, so that a search knows nothing of its neighbours."""
    return {i: torch.Generator().manual_seed(seed * 1_000_003 + i) for i in numbers}


def normal_noise(shape: Sequence[int], rngs: Sequence[torch.Generator]) -> Tensor:
    """Noise (b, *shape) of unit variance, one generator a row."""
    return torch.stack([torch.randn(tuple(shape), generator=rng) for rng in rngs])
