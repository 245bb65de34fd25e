"""SPM's facilitated transport (Lyu et al., CVPR 2024, arXiv:2312.16145).

Scales an adapter for each text by the text's likeness to the erased concepts.
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
    """Measures the likeness of a text to erased concepts.

    `clipcos` is the cosine of all states, `tokenuni` the share of a concept's tokens that the text contains, `both` the
    larger of the two. States without a text have no tokens: for them only the cosine counts.
    """

    metric: LikenessMetric = "both"
    floor: float = 0.0  # likeness that counts as 0
    ceiling: float = 1.0  # likeness that counts as 1; what lies between is rescaled

    def __post_init__(self) -> None:
        require(
            self.metric in _LIKENESS_METRICS,
            f"its metric is {self.metric!r}: allowed are {', '.join(_LIKENESS_METRICS)}",
            EditError,
        )
        require(
            0 <= self.floor < self.ceiling <= 1,
            f"its floor and ceiling are {self.floor} and {self.ceiling}: allowed are 0 to 1, the floor below the"
            " ceiling",
            EditError,
        )

    def __call__(
        self, states: Tensor, tokens: Sequence[frozenset[int] | None], own: Tensor, own_tokens: Sequence[frozenset[int]]
    ) -> Tensor:
        """Return the likeness (b,), 0 to 1, of texts with states (b, l, d) to the nearest concept of states (m, l, d).

        It is differentiable in the states.
        """
        found = state_cosines(states, own)
        overlaps = [token_overlap(text, concept) for text, concept in product(tokens, own_tokens)]
        shared = torch.tensor(overlaps).view(len(tokens), len(own_tokens)).to(found)
        if self.metric != "clipcos":
            worded = torch.tensor([text is not None for text in tokens], device=found.device)[:, None]
            found = torch.where(worded, shared if self.metric == "tokenuni" else torch.maximum(found, shared), found)
        return ((found.amax(1) - self.floor) / (self.ceiling - self.floor)).clamp(0, 1)


def state_cosines(states: Tensor, own: Tensor) -> Tensor:
    """Return the cosines (b, m) of states (b, l, d) and (m, l, d), each flattened, in float32 or wider."""
    wide = torch.promote_types(states.dtype, torch.float32)
    if states.shape[1:] != own.shape[1:]:
        return torch.zeros(len(states), len(own), dtype=wide, device=states.device)
    return F.normalize(states.to(wide).flatten(1), dim=1) @ F.normalize(own.to(states.device, wide).flatten(1), dim=1).T


def token_overlap(text: frozenset[int] | None, concept: frozenset[int]) -> float:
    """Return |text and concept| / |concept|, or 0 if there is no text."""
    return len(text & concept) / len(concept) if text is not None and concept else 0.0


def content_token_ids(model: ModelView, ids: TokenIds) -> frozenset[int]:
    """Return the tokens of a text without start, end and padding."""
    return frozenset(ids) - {*model.tokenizer([""]).ids[0], model.tokenizer.pad}
