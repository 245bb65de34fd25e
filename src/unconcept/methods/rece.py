"""RECE: Gong et al., ECCV 2024, arXiv:2407.12383.

After a UCE edit, finds in closed form the embedding that brings each concept back, erases it too, and repeats. No
images.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..core.errors import require
from ..core.request import Request
from ..core.text_identity import distinct_texts
from ..edits import TextMapEdit
from ..linalg.conditions import condition_figure
from ..linalg.derive import derive_map_through
from ..linalg.low_rank import reduce_rows
from ..linalg.moments import SecondMoments
from ..linalg.ridge import ridge_directions
from ..models import ModelView
from ..models.text.alignment import aligned_suffix_pairs
from ..models.text.state_rows import attended_rows, embed_together, text_state_moments
from ..models.text.text_identity import TokenTextKey
from .registry import NO_SERVICES, MethodServices, method

_START_RETAIN_SCALE, _START_LAMB = 0.1, 0.5  # of the UCE edit that the authors start from


@method(
    "rece",
    paper="arXiv:2407.12383",
    families=("sd1", "sd2", "sdxl", "pixart", "zimage"),
    mechanism="closed-form",
    unsupported_reason=(
        "its only map on the text has fewer rows than columns, so the derived embedding is not determined"
    ),
)
@dataclass(frozen=True)
class RECE:
    """Runs UCE, then rounds that find and erase embeddings which still bring the concept back.

    Defaults from the authors' `train.py`.
    """

    crowded_from: ClassVar[int] = 10

    regular_scale: float = 0.1
    """lambda of the derive step, ridge on the derived embedding; 1e-3 for styles and hard objects."""
    epochs: int = 3
    """Rounds."""
    erase_scale: float = 1.0
    """Weight of each derived row."""
    preserve_scale: float = 0.1
    """lambda_1, weight of each retained row."""
    lamb: float = 0.1
    """lambda_2, pull of each round towards the weights before it."""
    start: Literal["uce", "none"] = "uce"
    """Start from the authors' UCE edit of 2023, or from the unedited model."""
    start_retain: tuple[str, ...] = ("",)
    """Retained texts of that UCE edit."""

    def __post_init__(self) -> None:
        require(
            self.regular_scale > 0,
            f"rece: regular_scale must be > 0, got {self.regular_scale}; without it the maps must span all dimensions",
        )
        require(self.epochs >= 1, f"rece: epochs must be >= 1, got {self.epochs}; UCE alone is the method uce")
        require(self.erase_scale > 0, f"rece: erase_scale must be > 0, got {self.erase_scale}")
        require(self.preserve_scale >= 0, f"rece: preserve_scale must be >= 0, got {self.preserve_scale}")
        require(
            self.lamb > 0,
            f"rece: lamb must be > 0, got {self.lamb}; without it the erase step is singular below d rows",
        )

    @torch.no_grad()
    def erase(self, model: ModelView, request: Request, services: MethodServices = NO_SERVICES) -> TextMapEdit:
        """In each round: W' = W B, c' = R c for every row c of every target, then W' <- W' (I + (C_a - C')^T Y).

        Row i of the anchor belongs to row i of the target. There are n rows of targets, text width d: C, C_a (n, d),
        B and R (d, d). Only the sum of all W^T W depends on layers, so the edit is one map on the text, B = I + X^T Y.
        SDXL's pooled text still names the concept.
        """
        # Differs: we choose no round by its images; the authors keep the one that is best on their test prompts.
        maps = model.text_maps()
        states = embed_together(model, request.targets, request.anchors, at="all")
        rows, anchors = (part.double() for part in attended_rows(model, request.targets, *states))
        gram = SecondMoments.over(maps.values(), rows.shape[1], rows.device).gram
        # Differs: the empty text is retained once; the authors' script for nudity counts it once a concept.
        kept = text_state_moments(model, tuple(dict.fromkeys(("", *request.retain))))
        x, y, condition = self._start(model, request)
        identity, jitter = torch.eye(len(gram)).to(gram), 0.0
        for _ in range(self.epochs):
            so_far = identity + x.T @ y
            derived = derive_map_through(gram, so_far, self.regular_scale)
            c = derived(rows)
            step = ridge_directions(c, kept, self.erase_scale, self.preserve_scale, self.lamb)
            x, y = reduce_rows(torch.cat([x, (anchors - c) @ so_far.T]), torch.cat([y, step.y]))
            jitter = max(jitter, derived.jitter, step.jitter)
            condition = max(condition, derived.condition, step.condition)
        wide = torch.promote_types(model.dtype, torch.float32)
        figures = self._figures(gram) | {"jitter": jitter} | condition_figure(condition)
        return TextMapEdit(x.to(wide), y.to(wide), tuple(maps), solve_figures=figures)

    def _start(self, model: ModelView, request: Request) -> tuple[Tensor, Tensor, float]:
        """Return X, Y (n, d) of the authors' UCE edit of the request, or empty ones, and the condition number."""
        if self.start == "none":
            nothing = model.embed(()).double()
            return nothing, nothing, 1.0
        c, anchors = (rows.double() for rows in aligned_suffix_pairs(model, request.targets, request.anchors))
        kept = text_state_moments(model, distinct_texts(self.start_retain, TokenTextKey.of(model)))
        found = ridge_directions(c, kept, 1.0, _START_RETAIN_SCALE, _START_LAMB)
        return *reduce_rows(anchors - c, found.y), found.condition

    def _figures(self, gram: Tensor) -> dict[str, float]:
        """Return eigenvalues of the sum of W^T W relative to the derive step's ridge; below 1, directions are lost."""
        values = torch.linalg.eigvalsh(gram) / self.regular_scale
        return {"largest_over_regular_scale": float(values[-1]), "smallest_over_regular_scale": float(values[0])}
