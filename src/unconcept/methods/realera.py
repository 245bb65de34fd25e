"""RealEra: arXiv:2410.09140 (2024).

Its first stage, cross-attention alignment. A reconstruction: neither code nor full text was read.

The target and random neighbours of its embedding are read as the anchor, so that wordings close to it go too; what lies
beyond the neighbourhood keeps its reading.
"""

import hashlib
from dataclasses import dataclass

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
from .registry import NO_SERVICES, MethodServices, method


@method(
    "realera",
    paper="arXiv:2410.09140",
    families=("sd1", "sd2", "sdxl"),
    mechanism="closed-form",
    unsupported_reason="the paper defines its closed form for the keys and values of cross-attention alone",
)
@dataclass(frozen=True)
class RealEra:
    """Targets and mined neighbours are read as the anchor, first stage alone.

    A reconstruction: every default is (inferred).
    """

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
    """a target."""
    beyond: int = 50
    """a target."""
    l1: float = 0.1
    """Weight of the captions' mean."""
    l2: float = 0.1
    """Weight of the mean beyond, to which the retained texts belong."""
    l3: float = 0.01
    """Pull towards the old weights, over the mean of the system's diagonal."""
    prior: str = ""
    """Captions: a packaged set or a file; "" is none."""
    seed: int = 0
    """Seed of all that is drawn at random."""

    def __post_init__(self) -> None:
        check_seed("realera", self.seed)
        for name in ("l1", "l2", "neighbours", "beyond", "d1"):
            require(getattr(self, name) >= 0, f"realera: {name} must be >= 0, got {getattr(self, name)}")
        require(self.l3 > 0, f"realera: l3 must be > 0, got {self.l3}; without it the system is singular below d rows")
        require(0 < self.s1 <= self.s2 <= 1, f"realera: 0 < s1 <= s2 <= 1, got {self.s1} and {self.s2}")
        require(0 < self.b1 <= self.b2 < self.s1, f"realera: 0 < b1 <= b2 < s1, got {self.b1} and {self.b2}")

    @torch.no_grad()
    def erase(self, model: ModelView, request: Request, services: MethodServices = NO_SERVICES) -> TextMapEdit:
        """Minimise mean |W'(e + eta) - W m|^2 + l1 mean |W'p - W p|^2 + l2 mean |W'b - W b|^2 + l3' |W' - W|^2.

        e, m (n, d) are last subject tokens of targets and anchors, eta = 0 among the draws, p every row of the
        captions, b rows beyond and retained texts. Solved as W' = W (I + X^T Y). Rows p and drawn b in any target's
        neighbourhood are dropped; a retained text stays, since it was asked for. l3' is l3 times the mean of the
        system's diagonal.
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
        """The target's row and its neighbours (1 + neighbours, d) float64; SDXL's two encoders are constrained each for
        itself.
        """
        generator = self._generator("near", text)
        parts = row[None].split(model.widths, -1)
        drawn = [sample_neighbours(part, self.neighbours, (self.s1, self.s2), self.d1, generator)[0] for part in parts]
        return torch.cat([row[None].double(), torch.cat(drawn, -1)])

    def _beyond(self, model: ModelView, request: Request, e: Tensor) -> SecondMoments:
        """Mean outer product of the rows beyond and of the retained texts' last subject tokens."""
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
        """Mean outer product of the captions' rows."""
        texts = [text for text in load_captions(self.prior) if fits_context(model, text)]
        found = text_state_moments(model, texts, lambda rows: self._outside(rows, e))
        return found.weighted(1 / max(1, found.count))

    def _outside(self, rows: Tensor, e: Tensor) -> Tensor:
        """The rows (n, d) that lie in no target's neighbourhood."""
        return rows[~in_neighbourhood(rows, e, self.s1, self.d1)]

    def _generator(self, use: str, text: str) -> torch.Generator:
        """Noise of each target's own, so that neither the order nor the other targets change it."""
        digest = hashlib.sha256(f"{use}\0{text}\0{self.seed}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:6], "big"))
