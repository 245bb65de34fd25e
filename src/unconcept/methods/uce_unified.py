"""Unified Concept Editing (UCE), all its sets at once: Gandikota et al., WACV 2024, arXiv:2308.14761.

Erases, moderates and debiases in one solve. Closed form; only debiasing samples images, between the solves.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..core.errors import RequestError, require
from ..core.request import Request
from ..edits import TextMapEdit
from ..linalg.attribute_shares import AttributeShift, balance_shares, shift_values, wanted_shares
from ..linalg.conditions import condition_figure
from ..linalg.low_rank import reduce_rows
from ..linalg.moments import SecondMoments, weigh_rows
from ..linalg.ridge import RidgeTextMap, ridge_directions, ridge_text_map
from ..models import ModelView
from ..models.text.alignment import aligned_suffix_pairs, aligned_suffix_rows
from ..models.text.state_rows import embed_together, text_state_moments
from ..models.text.text_identity import TokenTextKey, require_each_named_once
from .registry import NO_SERVICES, MethodServices, Promise, method

_Rows = tuple[Tensor, Tensor, list[AttributeShift], Tensor | SecondMoments]


@method(
    "uce-unified",
    paper="arXiv:2308.14761",
    families=("sd1", "sd2", "sdxl"),
    mechanism="closed-form",
    uses=("attribute_counter",),
    unsupported_reason="its paper and scripts debias through cross-attention alone",
)
@dataclass(frozen=True)
class UCEUnified:
    """Erases targets with an anchor, moderates those whose anchor is "", and debiases others, in one solve.

    Defaults from the authors' 2025 scripts. Without `debias` it is `uce`.
    """

    promises: ClassVar[tuple[Promise, ...]] = ("changes", "nears-anchors")
    weighs_targets: ClassVar[bool] = True

    debias: tuple[str, ...] = ("doctor",)
    """Concepts whose attributes are balanced; neither targets nor retained texts."""
    attributes: tuple[str, ...] = ("woman", "man")
    """Attributes to balance."""
    ratios: tuple[float, ...] = ()
    """Wanted share of each attribute; () is equal shares."""
    max_diff: float = 0.05
    """Stop for a concept if all its shares differ by less than this from the wanted ones."""
    rounds: int = 30
    """Largest number of rounds of sampling."""
    images: int = 10
    """Images of each concept in a round."""
    step_size: float = 1.0
    """Amount of an attribute added for each unit of missing share."""
    erase_scale: float = 1.0
    """Weight of each target and of each concept to debias (sets E and M), > 0."""
    preserve_scale: float = 1.0
    """Weight of each retained text (set P), >= 0."""
    lamb: float = 0.5
    """lambda, pull towards the old weights, > 0."""
    tokens: Literal["last", "last+tail"] = "last"
    """Map the last subject token (2025 script), or it and all tokens after it (2023)."""

    def __post_init__(self) -> None:
        wanted_shares("uce-unified", self.attributes, self.ratios)
        require(0 < self.max_diff < 1, f"uce-unified: max_diff must be a share, 0 to 1, got {self.max_diff}")
        for name in ("rounds", "images"):
            require(getattr(self, name) >= 1, f"uce-unified: {name} must be >= 1, got {getattr(self, name)}")
        for name in ("step_size", "erase_scale", "lamb"):
            require(getattr(self, name) > 0, f"uce-unified: {name} must be > 0, got {getattr(self, name)}")
        require(self.preserve_scale >= 0, f"uce-unified: preserve_scale must be >= 0, got {self.preserve_scale}")

    @torch.no_grad()
    def erase(self, model: ModelView, request: Request, services: MethodServices = NO_SERVICES) -> TextMapEdit:
        """Solve Eq. 7 over all sets, W' = W (I + X^T Y) with one Y for all of them.

        X has C_a - C_e for the targets, which an anchor of "" moderates, and sum_a beta_a A for the concepts to debias.
        Each round samples under the whole edit and adds step_size (wanted - sampled share) to beta; Y is solved once.
        n targets, r rows of all texts, text width d: X, Y (r, d). SDXL's pooled text still names every concept.
        """
        self._require_each_named_once(model, request)
        c_e, c_a, shifts, kept = self._rows(model, request, services.weights_of(request))
        weights = self.erase_scale, self.preserve_scale, self.lamb
        if not shifts:
            return self._edit(model, ridge_text_map(c_e, c_a, kept, *weights), {})
        count = services.attribute_counter
        if count is None:
            raise RequestError(
                "uce-unified must judge the images it samples, by a judge that does not grade: name one, --method-judge"
                " clip-score=FOLDER"
            )
        rows = torch.cat([c_e.double(), *(one.rows for one in shifts)])
        solved = ridge_directions(rows, kept if isinstance(kept, SecondMoments) else kept.double(), *weights)
        wanted = torch.tensor(wanted_shares("uce-unified", self.attributes, self.ratios), dtype=torch.float64)

        def edit(beta: Tensor, figures: dict[str, float]) -> TextMapEdit:
            x = torch.cat([(c_a - c_e).double(), shift_values(beta, shifts)])
            thin = RidgeTextMap(*reduce_rows(x, solved.y), solved.jitter, solved.condition)
            return self._edit(model, thin, figures)

        def measure(beta: Tensor, left: Sequence[int], turn: int) -> Tensor:
            with edit(beta, {}).applied(model):
                seen = [count(self.debias[i], self.attributes, self.images, turn) for i in left]
            shown = torch.tensor([list(each) for each in seen], dtype=torch.float64)
            require(
                bool((shown.sum(1) > 0).all()),
                f"uce-unified: no picture of round {turn + 1} shows {' or '.join(self.attributes)}: name attributes"
                " that the model can draw, sample more images, or use a smaller step_size",
            )
            return wanted - shown / shown.sum(1, keepdim=True)

        none = solved.y.new_zeros(len(self.debias), len(self.attributes))
        beta, gaps, turns = balance_shares(none, measure, self.step_size, self.max_diff, self.rounds)
        return edit(beta, {"rounds": float(turns), "largest_gap": float(gaps.abs().max()), **self._named(beta)})

    def _require_each_named_once(self, model: ModelView, request: Request) -> None:
        for what in ("debias", "attributes"):
            require_each_named_once("uce-unified", what, getattr(self, what), model)
        key = TokenTextKey.of(model)
        elsewhere = {key(text) for text in (*request.targets, *request.retain)}
        doubled = [text for text in self.debias if key(text) in elsewhere]
        message = f"uce-unified: {doubled[:1]} is to be debiased and erased or retained: name it once"
        require(not doubled, message, RequestError)

    def _named(self, beta: Tensor) -> dict[str, float]:
        pairs = [(attribute, concept) for concept in self.debias for attribute in self.attributes]
        shares = beta.flatten().tolist()
        return {f"{attribute} in {concept}": share for (attribute, concept), share in zip(pairs, shares, strict=True)}

    def _edit(self, model: ModelView, found: RidgeTextMap, figures: dict[str, float]) -> TextMapEdit:
        wide = torch.promote_types(model.dtype, torch.float32)
        solved = replace(found, x=found.x.to(wide), y=found.y.to(wide))
        figures = {**condition_figure(found.condition), **figures}
        return TextMapEdit(solved.x, solved.y, tuple(sorted(model.text_maps())), solve_figures=figures)

    def _rows(self, model: ModelView, request: Request, weights: Sequence[float] | None) -> _Rows:
        """Return the rows of targets and anchors, (r, d), the shifts of concepts to debias, and the retained rows."""
        beside = [self.debias, *((attribute,) * len(self.debias) for attribute in self.attributes)]
        beside = beside if self.debias else []
        if self.tokens == "last":
            c_e, c_a, *read, c_p = embed_together(model, request.targets, request.anchors, *beside, request.retain)
            by_concept = zip(*(rows[:, None] for rows in read), strict=True)
            return (
                weigh_rows(c_e, weights),
                weigh_rows(c_a, weights),
                [self._shift(i, rows) for i, rows in enumerate(by_concept)],
                c_p,
            )
        pairs = aligned_suffix_pairs(model, request.targets, request.anchors, weights)
        read_beside = aligned_suffix_rows(model, *beside) if beside else []
        shifts = [self._shift(i, rows) for i, rows in enumerate(read_beside)]
        return *pairs, shifts, text_state_moments(model, tuple(dict.fromkeys(("", *request.retain))))

    def _shift(self, target: int, rows: Sequence[Tensor]) -> AttributeShift:
        return AttributeShift(target, rows[0].double(), torch.stack(list(rows[1:])).double())
