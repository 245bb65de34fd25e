"""Low-rank edits whose strength depends on the prompt: SPM's one-dimensional adapters, for one or several concepts."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from ..core.errors import EditError, require
from ..core.request import Request
from ..linalg.low_rank import sum_pairs
from ..models import ModelView
from ..models.hooks.forward import watch_text_states
from ..models.hooks.guidance import watch_guidance
from ..models.hooks.low_rank import LowRankMiddle, lora_hooks
from ..models.hooks.modules import denoiser_modules
from ..models.text.prompt_tracking import TokenIds, track_prompts
from .base import validate_strength
from .common import BesideEdit
from .edit_file import StoredEdit
from .gating import PromptLikeness, content_token_ids
from .registry import edit_kind
from .weight_edits import LowRankEdit, low_rank_pairs
from .weights import require_same_base

GateCombination = Literal["sum", "authors"]


@dataclass(frozen=True)
class GatedAdapter:
    """An adapter and the concepts it was trained to erase."""

    texts: tuple[str, ...]
    pairs: Mapping[str, tuple[Tensor, Tensor]]  # up (o, r), down (r, d) by the full name of the weight, one r for all

    @property
    def rank(self) -> int:
        return len(next(iter(self.pairs.values()))[1])

    @property
    def has_one_rank(self) -> bool:
        """Whether all its pairs have the same rank."""
        return all(len(down) == self.rank for _, down in self.pairs.values())

    def scaled(self, strength: float) -> "GatedAdapter":
        """Return the adapter with its effect multiplied by `strength`."""
        pairs = {name: (strength * up, down) for name, (up, down) in self.pairs.items()}
        return replace(self, pairs=pairs)


@edit_kind("gated")
@dataclass(frozen=True)
class GatedEdit(BesideEdit):
    """Computes W x + sum_i gamma_i up_i down_i x, where gamma_i (b,) is each row's likeness to the concepts of part i.

    While a stock pipeline draws, both sides of guidance have the gammas of the prompt. Anywhere else, as in a loop of
    one's own, every row has the gammas of its own text, and the empty text has its own too.
    """

    parts: tuple[GatedAdapter, ...]
    likeness: PromptLikeness = PromptLikeness()
    combine: GateCombination = "sum"
    """"sum", or "authors": (sum_i gamma_i up_i) (sum_j gamma_j down_j), which mixes concepts and squares one gamma."""

    def __post_init__(self) -> None:
        require(
            bool(self.parts) and all(part.texts and part.pairs for part in self.parts),
            "one of its parts has no concept or changes nothing",
            EditError,
        )
        require(
            all(part.pairs.keys() == self.parts[0].pairs.keys() for part in self.parts),
            "its parts change different maps: all must change the same ones",
            EditError,
        )
        require(
            all(part.has_one_rank for part in self.parts),
            "one of its parts has pairs of different ranks: all must have one rank",
            EditError,
        )
        require(
            self.combine == "sum" or len({part.rank for part in self.parts}) == 1,
            "combine 'authors' is defined only for parts of one rank: use 'sum'",
            EditError,
        )

    @property
    def bound_names(self) -> tuple[str, ...]:
        """Full names of the weights that the pairs are added to."""
        return tuple(sorted(self.parts[0].pairs))

    def tensors(self) -> Mapping[str, Tensor]:
        sides = ("up", "down")
        return {
            f"{i}.{name}.{side}": t
            for i, part in enumerate(self.parts)
            for name, pair in part.pairs.items()
            for side, t in zip(sides, pair, strict=True)
        }

    def delta(self, name: str, weight: Tensor) -> Tensor:
        raise EditError(f"a gated edit changes no {name}: use `applied`, or `static` for full weight for every prompt")

    def static(self) -> LowRankEdit:
        """Return the sum of all parts at gamma 1 for every prompt, which a LoRA file or a weight can hold.

        It changes unrelated prompts more than the gated edit does, on both sides of guidance.
        """
        pairs = sum_pairs([part.pairs for part in self.parts])
        wide = {name: (up.to(torch.float32), down.to(torch.float32)) for name, (up, down) in pairs.items()}
        return LowRankEdit(wide, origin=self.origin, solve_figures=self.solve_figures, maker=self.maker)

    def scaled(self, strength: float, amplify: bool = False) -> "GatedEdit":
        validate_strength(strength, amplify)
        return replace(self, parts=tuple(part.scaled(strength) for part in self.parts))

    @contextmanager
    def applied(self, model: ModelView) -> Iterator[None]:
        """Run the gated adapters inside the block. Encode texts inside it too, so that their tokens are known.

        Raises `EditError` with both hashes if the edit is for other weights.
        """
        require_same_base(self.origin, model, self.bound_names)
        modules, weigh = denoiser_modules(model, self.bound_names), self._weigher(model)
        denoiser, pipeline = model.modules("denoiser"), model.checkpoint.built_pipeline
        now: LowRankMiddle = 0.0
        pairs = [(modules[name], *self._laid(name, model.device)) for name in self.bound_names]
        with track_prompts(model) as ids_of, watch_guidance(pipeline, denoiser, model.spec) as sides:

            def see(states: Tensor) -> None:
                nonlocal now
                now = self._between(sides.of_prompts(weigh(states, ids_of(states))))

            with watch_text_states(denoiser, see), lora_hooks(pairs, lambda: now):
                yield

    @torch.no_grad()
    def gammas(self, model: ModelView, texts: tuple[str, ...]) -> Tensor:
        """Return the gamma of each part for each text, (n, parts)."""
        return self._weigher(model)(model.condition(texts).states, list(model.tokenizer(texts).ids))

    @torch.no_grad()
    def _weigher(self, model: ModelView) -> Callable[[Tensor, list[TokenIds | None]], Tensor]:
        """Return a function from states (b, l, d) and their ids to gammas (b, parts). It encodes the concepts once."""
        own = [model.condition(part.texts).states for part in self.parts]
        tokens = []
        for part in self.parts:
            tokens.append([content_token_ids(model, ids) for ids in model.tokenizer(part.texts).ids])

        def weigh(states: Tensor, ids: list[TokenIds | None]) -> Tensor:
            read = [None if each is None else content_token_ids(model, each) for each in ids]
            return torch.stack(
                [self.likeness(states, read, rows, words) for rows, words in zip(own, tokens, strict=True)], 1
            )

        return weigh

    def _laid(self, name: str, device: torch.device) -> tuple[Tensor, Tensor]:
        """Concatenate the pairs of all parts for one weight: up (o, R), down (R, d)."""
        ups, downs = zip(*(part.pairs[name] for part in self.parts), strict=True)
        return torch.cat(ups, 1).to(device), torch.cat(downs).to(device)

    def _between(self, gammas: Tensor) -> Tensor:
        """Return the matrices (b, R, R) between up and down: diagonal gammas, or the authors' pairwise products."""
        ranks = [part.rank for part in self.parts]
        if self.combine == "sum":
            return torch.diag_embed(gammas.repeat_interleave(torch.tensor(ranks, device=gammas.device), 1))
        both = gammas[:, :, None] * gammas[:, None, :]
        return torch.kron(both, torch.eye(ranks[0], dtype=both.dtype, device=both.device)[None])

    def describe(self) -> str:
        return "has a strength that depends on the prompt"

    def details(self) -> dict[str, Any]:
        likeness = vars(self.likeness)
        if self.likeness.ceiling == 1:  # Files of 0.1 have none.
            likeness = {name: value for name, value in likeness.items() if name != "ceiling"}
        return {"texts": [list(part.texts) for part in self.parts], "combine": self.combine, **likeness}

    @classmethod
    def from_stored(cls, stored: StoredEdit) -> "GatedEdit":
        """Invert `save`. Raises `EditError` if something is missing or does not fit."""
        names = ("texts", "combine", "metric", "floor", "ceiling")
        given: dict[str, Any] = {**dict.fromkeys(names), "ceiling": 1.0, **stored.details}
        texts, combine, metric, floor, ceiling = (given[name] for name in names)
        require(
            isinstance(texts, list) and all(map(_is_list_of_texts, texts)),
            "its texts are not lists of texts",
            EditError,
        )
        require(combine in ("sum", "authors"), f"its combine is {combine!r}, not 'sum' or 'authors'", EditError)
        require(
            isinstance(floor, float) and isinstance(ceiling, float) and isinstance(metric, str),
            f"its metric, floor and ceiling are {metric!r}, {floor!r} and {ceiling!r}, not a name and two numbers",
            EditError,
        )
        found = [_below(stored.tensors, str(i)) for i in range(len(texts or ()))]
        require(sum(map(len, found)) == len(stored.tensors), "it holds parts for which it names no texts", EditError)
        parts = tuple(
            GatedAdapter(tuple(own), low_rank_pairs(tensors)) for own, tensors in zip(texts or (), found, strict=True)
        )
        return cls(parts, PromptLikeness(metric, floor, ceiling), combine, origin=stored.origin)

    @torch.no_grad()
    def effect(self, model: ModelView, request: Request) -> dict[str, float]:
        """Return figures of the edit: `relative_norm` is that of the change at gamma 1.

        A text's gate is its largest gamma. `least_gate` is the smallest gate of a target, `gate_of_retained` the
        largest gate of a retained text.
        """
        own, static = model.reference(self.bound_names), self.static()
        change = sum(float(static.delta(name, w.float()).square().sum()) for name, w in own.items())
        size = sum(float(w.float().square().sum()) for w in own.values())
        found = {
            "relative_norm": (change / size) ** 0.5,
            "least_gate": float(self.gammas(model, request.targets).amax(1).min()),
        }
        if request.retain:
            found["gate_of_retained"] = float(self.gammas(model, request.retain).amax(1).max())
        return found


def _is_list_of_texts(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(text, str) for text in value)


def _below(tensors: Mapping[str, Tensor], first: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with the given first part, without that part."""
    return {name.partition(".")[2]: t for name, t in tensors.items() if name.partition(".")[0] == first}
