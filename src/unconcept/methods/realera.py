"""RealEra: arXiv:2410.09140 (2024), its first stage, cross-attention alignment.

A reconstruction: we read neither code nor full text. Maps the target and random neighbours of its embedding to the
anchor, so that similar wordings are erased too, and preserves embeddings beyond the neighbourhood.
"""

import hashlib
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..core.errors import require
from ..core.request import Request
from ..core.seeds import check_seed
from ..edits import TextMapEdit
from ..linalg.conditions import condition_figure
from ..linalg.moments import SecondMoments
from ..linalg.neighbours import in_neighbourhood, sample_beyond, sample_neighbours
from ..linalg.ridge import ridge_directions
from ..models import ModelView
from ..models.text.state_rows import embed_together, fits_context, text_state_moments
from ..prompts.captions import load_captions
from .registry import NO_SERVICES, MethodServices, Promise, method


@method(
    "realera",
    paper="arXiv:2410.09140",
    families=("sd1", "sd2", "sdxl"),
    mechanism="closed-form",
    unsupported_reason="the paper defines its closed form only for the keys and values of cross-attention",
)
@dataclass(frozen=True)
class RealEra:
    """Maps targets and mined neighbours to the anchor; first stage only.

    A reconstruction: every default is (inferred).
    """

    promises: ClassVar[tuple[Promise, ...]] = ("changes", "nears-anchors")

    d1: float = 0.6
    """Largest distance of a neighbour, in lengths of the target's embedding."""
    s1: float = 0.85
    """Smallest cosine of a neighbour."""
    s2: float = 0.99
    """Largest cosine of a neighbour."""
    b1: float = 0.3
    """Smallest cosine of a row beyond."""
    b2: float = 0.75
    """Largest cosine of a row beyond."""
    neighbours: int = 10
    """Neighbours of each target."""
    beyond: int = 50
    """Rows beyond the neighbourhood for each target."""
    l1: float = 0.1
    """Weight of the mean over captions."""
    l2: float = 0.1
    """Weight of the mean over rows beyond and retained texts."""
    l3: float = 0.01
    """Pull towards the old weights, relative to the mean of the system's diagonal."""
    prior: str = ""
    """Captions: a packaged set or a file; "" is none."""
    seed: int = 0
    """Seed of all random numbers."""

    def __post_init__(self) -> None:
        check_seed("realera", self.seed)
        for name in ("l1", "l2", "neighbours", "beyond", "d1"):
            require(getattr(self, name) >= 0, f"realera: {name} must be >= 0, got {getattr(self, name)}")
        require(self.l3 > 0, f"realera: l3 must be > 0, got {self.l3}; without it the system is singular below d rows")
        require(0 < self.s1 <= self.s2 <= 1, f"realera: s1 and s2 need 0 < s1 <= s2 <= 1, got {self.s1}, {self.s2}")
        require(
            0 < self.b1 <= self.b2 < self.s1, f"realera: b1 and b2 need 0 < b1 <= b2 < s1, got {self.b1}, {self.b2}"
        )

    @torch.no_grad()
    def erase(self, model: ModelView, request: Request, services: MethodServices = NO_SERVICES) -> TextMapEdit:
        """Minimise mean |W'(e + eta) - W m|^2 + l1 mean |W'p - W p|^2 + l2 mean |W'b - W b|^2 + l3' |W' - W|^2.

        e, m (n, d) are last subject tokens of targets and anchors, eta offsets to neighbours, including 0, p every row
        of the captions, b rows beyond and retained texts. Solved as W' = W (I + X^T Y). Rows p and random rows b in any
        target's neighbourhood are dropped; retained texts stay, because the request names them. l3' is l3 times the
        mean of the system's diagonal. SDXL's pooled text still names the concept.
        """
        e, m = embed_together(model, request.targets, request.anchors)
        near = [self._near(model, row, text) for row, text in zip(e, request.targets, strict=True)]
        c = torch.cat(near)
        wanted = m.double().repeat_interleave(self.neighbours + 1, 0)
        kept = self._beyond(model, request, e).weighted(self.l2) + self._captions(model, e).weighted(self.l1)
        diagonal = c.square().sum() / len(c) + kept.gram.trace()
        found = ridge_directions(c, kept, 1 / len(c), 1.0, self.l3 * float(diagonal) / c.shape[1])
        wide = torch.promote_types(model.dtype, torch.float32)
        figures = condition_figure(found.condition)
        return TextMapEdit.thin((wanted - c).to(wide), found.y.to(wide), tuple(model.text_maps()), figures)

    def _near(self, model: ModelView, row: Tensor, text: str) -> Tensor:
        """Return the target's row and its neighbours, (1 + neighbours, d) float64; each encoder of SDXL separately."""
        generator = self._generator("near", text)
        parts = row[None].split(model.widths, -1)
        drawn = [sample_neighbours(part, self.neighbours, (self.s1, self.s2), self.d1, generator)[0] for part in parts]
        return torch.cat([row[None].double(), torch.cat(drawn, -1)])

    def _beyond(self, model: ModelView, request: Request, e: Tensor) -> SecondMoments:
        """Return the mean outer product of the rows beyond and of the retained texts' last subject tokens."""
        drawn = [e[:0].double()]
        for row, text in zip(e, request.targets, strict=True):
            generator = self._generator("beyond", text)
            parts = row[None].split(model.widths, -1)
            drawn.append(
                torch.cat(
                    [sample_beyond(part, self.beyond, (self.b1, self.b2), self.d1, generator)[0] for part in parts], -1
                )
            )
        rows = torch.cat([self._outside(torch.cat(drawn), e), model.embed(request.retain).double()])
        return SecondMoments.of(rows).weighted(1 / max(1, len(rows)))

    def _captions(self, model: ModelView, e: Tensor) -> SecondMoments:
        """Return the mean outer product of the captions' rows."""
        texts = [text for text in load_captions(self.prior) if fits_context(model, text)]
        found = text_state_moments(model, texts, lambda rows: self._outside(rows, e))
        return found.weighted(1 / max(1, found.count))

    def _outside(self, rows: Tensor, e: Tensor) -> Tensor:
        """Return the rows (n, d) that are in no target's neighbourhood."""
        return rows[~in_neighbourhood(rows, e, self.s1, self.d1)]

    def _generator(self, use: str, text: str) -> torch.Generator:
        """Return a generator for each target, so that neither order nor other targets change its random rows."""
        digest = hashlib.sha256(f"{use}\0{text}\0{self.seed}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:6], "big"))
