"""Unified Concept Editing (UCE): Gandikota et al., WACV 2024, arXiv:2308.14761.

Makes the cross-attention keys and values read each target concept as its anchor. Closed form, no images.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..core.errors import require
from ..core.request import Request
from ..edits import TextMapEdit
from ..linalg.ridge import ridge_directions
from ..models import ModelView
from .registry import method


@method("uce", paper="arXiv:2308.14761", families=("sd1", "sd2", "sdxl"))
@dataclass(frozen=True)
class UCE:
    """Closed-form edit of all cross-attention keys and values. Defaults from the authors' 2025 `uce_sd_erase.py`."""

    erase_scale: float = 1.0  # weight of each target, set E
    preserve_scale: float = 1.0  # weight of each retained text, set P
    lamb: float = 0.5  # lambda, pull towards the old weights
    tokens: Literal["last", "last+tail"] = "last"  # last subject token (2025 script), or it and all that follow (2023)

    def __post_init__(self) -> None:
        require(self.erase_scale > 0, f"uce: erase_scale must be > 0, got {self.erase_scale}")
        require(self.preserve_scale >= 0, f"uce: preserve_scale must be >= 0, got {self.preserve_scale}")
        require(self.lamb > 0, f"uce: lamb must be > 0, got {self.lamb}; without it Eq. 7 is singular below d texts")

    @torch.no_grad()
    def erase(self, model: ModelView, request: Request) -> TextMapEdit:
        """Solve Eq. 7 plus lamb * I (the authors' script) in delta form, W' = W + W (C_a - C_e)^T Y.

        n targets, m retained, text width d: C_e, C_a (n, d), C_p (m, d), Y (n, d). The matrix that Eq. 7 inverts has no
        layer index, so one solve serves all layers, and the edit is one map on the text.
        """
        c_e, c_a = self._pairs(model, request)
        c_p = self._retained(model, request)
        y = ridge_directions(c_e, c_p, self.erase_scale, self.preserve_scale, self.lamb).y
        wide = torch.promote_types(c_e.dtype, torch.float32)
        return TextMapEdit.thin((c_a.double() - c_e.double()).to(wide), y.to(wide), tuple(model.text_maps()))

    def _pairs(self, model: ModelView, request: Request) -> tuple[Tensor, Tensor]:
        """Rows of targets and, beside each, of its anchor: (n, d), or (n * tail, d) with the tail."""
        if self.tokens == "last":
            return model.embed(request.targets), model.embed(request.anchors)
        old, new = model.embed(request.targets, at="all"), model.embed(request.anchors, at="all")
        rows_old, rows_new = [], []
        last = (model.tokenizer(texts).index("last_subject") for texts in (request.targets, request.anchors))
        for i, (a, b) in enumerate(zip(*last, strict=True)):
            count = old.shape[1] - max(a, b)
            rows_old.append(old[i, a : a + count])
            rows_new.append(new[i, b : b + count])
        return torch.cat(rows_old), torch.cat(rows_new)

    def _retained(self, model: ModelView, request: Request) -> Tensor:
        """One row a text; with the tail every row of every retained text and of "", as in the 2023 script."""
        if self.tokens == "last":
            return model.embed(request.retain)
        return model.embed(("", *request.retain), at="all").flatten(0, 1)
