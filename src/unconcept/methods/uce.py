"""Unified Concept Editing (UCE): Gandikota et al., WACV 2024, arXiv:2308.14761.

Makes the maps that read the text read each target concept as its anchor. Closed form, no images.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ..core.errors import require
from ..core.request import Request
from ..edits import LowRankEdit, TextMapEdit
from ..linalg.conditions import condition_figure
from ..linalg.moments import SecondMoments
from ..linalg.ridge import RidgeTextMap, ridge_text_map
from ..models import ModelView
from ..models.text.alignment import aligned_suffix_pairs
from ..models.text.state_rows import embed_together, text_state_moments
from .registry import NO_SERVICES, MethodServices, method


@method(
    "uce", paper="arXiv:2308.14761", families=("sd1", "sd2", "sdxl", "sd3", "flux", "pixart"), mechanism="closed-form"
)
@dataclass(frozen=True)
class UCE:
    """Closed-form edit of all maps that read the text. Defaults from the authors' 2025 `uce_sd_erase.py`."""

    erase_scale: float = 1.0
    """Weight of each target, set E."""
    preserve_scale: float = 1.0
    """Weight of each retained text, set P."""
    lamb: float = 0.5
    """Lambda, pull towards the old weights."""
    tokens: Literal["last", "last+tail"] = "last"
    """Last subject token (2025 script), or it and all that follow (2023)."""

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
        layer index, so one solve serves all layers, and the edit is one map on the text. SD3 and FLUX are told the
        pooled text apart, through a map that is solved for likewise, as the authors' script does for FLUX; SD3 by
        analogy (inferred).
        """
        # Differs: the script's values for FLUX hold the layer's bias, which its output then has twice; ours are W c_a
        # alone.
        states = self._solved(*self._rows(model, request))
        maps, pooled_maps = model.text_maps(), model.text_maps("pooled")
        if not pooled_maps:
            figures = condition_figure(states.condition)
            return TextMapEdit(states.x, states.y, tuple(sorted(maps)), solve_figures=figures)
        pooled = self._solved(*embed_together(model, request.targets, request.anchors, request.retain, at="pooled"))
        pairs: dict[str, tuple[Tensor, Tensor]] = {}
        for weights, found in ((maps, states), (pooled_maps, pooled)):
            pairs |= {name: (w.to(found.x.dtype) @ found.x.T, found.y) for name, w in weights.items()}
        return LowRankEdit(pairs, solve_figures=condition_figure(states.condition, pooled.condition))

    def _solved(self, c_e: Tensor, c_a: Tensor, c_p: Tensor | SecondMoments) -> RidgeTextMap:
        """X and Y of one map on the text, (n, d) or (d, d), in float32 at least: C_a - C_e and Y while there are no
        more texts than dimensions.
        """
        found = ridge_text_map(c_e, c_a, c_p, self.erase_scale, self.preserve_scale, self.lamb)
        wide = torch.promote_types(c_e.dtype, torch.float32)
        return replace(found, x=found.x.to(wide), y=found.y.to(wide))

    def _rows(self, model: ModelView, request: Request) -> tuple[Tensor, Tensor, Tensor | SecondMoments]:
        """Rows of targets, beside each that of its anchor, and of what is retained: (n, d), or with the tail (n * tail,
        d).

        With the tail, every row of every retained text and of "" is retained, as in the 2023 script.
        """
        if self.tokens == "last":
            c_e, c_a, c_p = embed_together(model, request.targets, request.anchors, request.retain)
            return c_e, c_a, c_p
        require(
            model.streams == 1,
            f"uce: tokens = last+tail is not defined for {model.family} models, whose text has two rows a token: use"
            " last",
        )
        return *aligned_suffix_pairs(model, request.targets, request.anchors), text_state_moments(
            model, ("", *request.retain)
        )
