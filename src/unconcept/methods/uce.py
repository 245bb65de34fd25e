"""Unified Concept Editing (UCE): Gandikota et al., WACV 2024, arXiv:2308.14761.

Edits the text maps so that they map each target concept to the values of its anchor. Closed form, no images.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..core.errors import require
from ..core.request import Request
from ..edits import LowRankEdit, TextMapEdit
from ..linalg.conditions import condition_figure
from ..linalg.moments import SecondMoments, weigh_rows
from ..linalg.ridge import RidgeTextMap, ridge_text_map
from ..models import ModelView
from ..models.families import FAMILIES
from ..models.text.alignment import aligned_suffix_pairs
from ..models.text.state_rows import embed_together, text_state_moments
from .registry import NO_SERVICES, MethodServices, Promise, method


@method(
    "uce",
    paper="arXiv:2308.14761",
    families=FAMILIES,
    mechanism="closed-form",
)
@dataclass(frozen=True)
class UCE:
    """Edits all text maps in closed form. Defaults from the authors' 2025 `uce_sd_erase.py`."""

    promises: ClassVar[tuple[Promise, ...]] = ("changes", "nears-anchors")
    crowded_from: ClassVar[int] = 10
    weighs_targets: ClassVar[bool] = True

    erase_scale: float = 1.0
    """Weight of each target (set E), > 0."""
    preserve_scale: float = 1.0
    """Weight of each retained text (set P), >= 0."""
    lamb: float = 0.5
    """lambda, pull towards the old weights, > 0."""
    tokens: Literal["last", "last+tail"] = "last"
    """Map the last subject token (2025 script), or it and all tokens after it (2023)."""

    def __post_init__(self) -> None:
        require(self.erase_scale > 0, f"uce: erase_scale must be > 0, got {self.erase_scale}")
        require(self.preserve_scale >= 0, f"uce: preserve_scale must be >= 0, got {self.preserve_scale}")
        require(self.lamb > 0, f"uce: lamb must be > 0, got {self.lamb}; without it Eq. 7 is singular below d texts")

    @torch.no_grad()
    def erase(
        self, model: ModelView, request: Request, services: MethodServices = NO_SERVICES
    ) -> TextMapEdit | LowRankEdit:
        """Solve Eq. 7 plus lamb * I (the authors' script) in delta form, W' = W + W (C_a - C_e)^T Y.

        n targets, m retained, text width d: C_e, C_a (n, d), C_p (m, d), Y (n, d). The matrix that Eq. 7 inverts has no
        layer index, so one solve serves all layers, and the edit is one map on the text. SD3 and FLUX also take a
        pooled text, through a map that is solved in the same way, as in the authors' script for FLUX; SD3 by analogy
        (inferred). SDXL's pooled text still names the concept.
        """
        # Differs: the script's values for FLUX include the layer's bias, which its output then has twice; ours are
        # only W c_a.
        weights = services.weights_of(request)
        states = self._solved(*self._rows(model, request, weights))
        maps, pooled_maps = model.text_maps(), model.text_maps("pooled")
        if not pooled_maps:
            figures = condition_figure(states.condition)
            return TextMapEdit(states.x, states.y, tuple(sorted(maps)), solve_figures=figures)
        c_e, c_a, c_p = embed_together(model, request.targets, request.anchors, request.retain, at="pooled")
        pooled = self._solved(weigh_rows(c_e, weights), weigh_rows(c_a, weights), c_p)
        pairs: dict[str, tuple[Tensor, Tensor]] = {}
        for own, found in ((maps, states), (pooled_maps, pooled)):
            pairs |= {name: (w.to(found.x.dtype) @ found.x.T, found.y) for name, w in own.items()}
        return LowRankEdit(pairs, solve_figures=condition_figure(states.condition, pooled.condition))

    def _solved(self, c_e: Tensor, c_a: Tensor, c_p: Tensor | SecondMoments) -> RidgeTextMap:
        """Solve for X and Y of one map on the text, (n, d) or (d, d), in float32 or wider.

        X is C_a - C_e if there are no more texts than dimensions.
        """
        found = ridge_text_map(c_e, c_a, c_p, self.erase_scale, self.preserve_scale, self.lamb)
        wide = torch.promote_types(c_e.dtype, torch.float32)
        return replace(found, x=found.x.to(wide), y=found.y.to(wide))

    def _rows(
        self, model: ModelView, request: Request, weights: Sequence[float] | None = None
    ) -> tuple[Tensor, Tensor, Tensor | SecondMoments]:
        """Return the rows of targets, of their anchors, and of retained texts: (n, d), or with the tail (n * tail, d).

        With the tail, every row of every retained text and of "" is retained, as in the 2023 script. Rows of weighted
        targets and their anchors are scaled by the roots of the weights.
        """
        if self.tokens == "last":
            c_e, c_a, c_p = embed_together(model, request.targets, request.anchors, request.retain)
            return weigh_rows(c_e, weights), weigh_rows(c_a, weights), c_p
        require(
            model.streams == 1,
            f"uce: tokens = last+tail is not defined for {model.family} models, whose texts have two rows for a token:"
            " use last",
        )
        kept = text_state_moments(model, tuple(dict.fromkeys(("", *request.retain))))
        return *aligned_suffix_pairs(model, request.targets, request.anchors, weights), kept
