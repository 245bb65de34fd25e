"""SPM's facilitated transport (Lyu et al., CVPR 2024, arXiv:2312.16145): how much of an adapter a text is given, by its
likeness to what was erased.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ..core.errors import EditError, require
from ..models import ModelView
from ..models.text.prompt_tracking import TokenIds

LikenessMetric = Literal["both", "clipcos", "tokenuni"]
_LIKENESS_METRICS: tuple[LikenessMetric, ...] = ("both", "clipcos", "tokenuni")


@dataclass(frozen=True)
class PromptLikeness:
    """`both`: the larger of the two.

    `clipcos`: the cosine of all states. `tokenuni`: the share of a concept's tokens that the text holds.

    States that no text gave have no tokens: they are judged by their cosine.
    """

    metric: LikenessMetric = "both"
    floor: float = 0.0  # likeness that counts as none; above, it is stretched to 1

    def __post_init__(self) -> None:
        require(
            self.metric in _LIKENESS_METRICS,
            f"its metric is {self.metric!r}: allowed are {', '.join(_LIKENESS_METRICS)}",
            EditError,
        )
        require(0 <= self.floor < 1, f"its floor is {self.floor}: allowed is 0 to below 1", EditError)

    def __call__(
        self, states: Tensor, tokens: Sequence[frozenset[int] | None], own: Tensor, own_tokens: Sequence[frozenset[int]]
    ) -> Tensor:
        """(b,) within 0 and 1: of texts with states (b, l, d) to the most alike of concepts with states (m, l, d).

        Differentiable in the states.
        """
        found = state_cosines(states, own)
        overlaps = [token_overlap(text, concept) for text, concept in product(tokens, own_tokens)]
        shared = torch.tensor(overlaps).view(len(tokens), len(own_tokens)).to(found)
        if self.metric != "clipcos":
            worded = torch.tensor([text is not None for text in tokens], device=found.device)[:, None]
            found = torch.where(worded, shared if self.metric == "tokenuni" else torch.maximum(found, shared), found)
        return ((found.amax(1) - self.floor) / (1 - self.floor)).clamp(0, 1)


def state_cosines(states: Tensor, own: Tensor) -> Tensor:
    """(b, m) of (b, l, d) and (m, l, d), each flattened, in float32 or wider."""
    wide = torch.promote_types(states.dtype, torch.float32)
    if states.shape[1:] != own.shape[1:]:
        return torch.zeros(len(states), len(own), dtype=wide, device=states.device)
    return F.normalize(states.to(wide).flatten(1), dim=1) @ F.normalize(own.to(states.device, wide).flatten(1), dim=1).T


def token_overlap(text: frozenset[int] | None, concept: frozenset[int]) -> float:
    """|text and concept| / |concept|; 0 for what is no text."""
    return len(text & concept) / len(concept) if text is not None and concept else 0.0


def content_token_ids(model: ModelView, ids: TokenIds) -> frozenset[int]:
    """The tokens that a text is made of, without start, end and padding."""
    return frozenset(ids) - {*model.tokenizer([""]).ids[0], model.tokenizer.pad}
