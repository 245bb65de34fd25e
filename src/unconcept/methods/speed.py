"""SPEED: Li et al., ICLR 2026, arXiv:2503.07392.

Edits cross-attention values inside the null space of a refined retain set, with the null text held fixed. Closed form,
no images.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from ..core.errors import RequestError, require
from ..core.hashing import hash_json
from ..core.request import Request
from ..core.seeds import check_seed
from ..edits import LowRankEdit, TextMapEdit
from ..linalg.conditions import condition_figure
from ..linalg.kmeans import kmeans_centres
from ..linalg.low_rank import reduce_rows
from ..linalg.moments import weigh_rows
from ..linalg.null_space import NullSpaceProjector, null_projector, projected_directions, soft_projected_directions
from ..linalg.retain_refinement import RefinedRetainSet, augment_rows, strongly_changed_rows, weakest_direction
from ..linalg.ridge import RidgeDirections, ridge_directions
from ..models import ModelView
from ..models.families import FAMILIES
from ..models.hooks.modules import KeysOrValues, select_keys_or_values
from ..models.text.alignment import aligned_suffix_rows
from ..models.text.state_rows import attended_rows, content_positions, embed_together
from ..prompts.text_matching import without_names
from .registry import NO_SERVICES, MethodServices, Promise, method

NULL_TEXT_CENTRES = 3  # number of k-means centres of the null text
SETTLED_SHIFT = 1e-4  # squared sum of the centres' shifts below which k-means stops
# Smallest share of a text's length inside the projector with which the text can be erased.
_LEAST_REMAINDER = 1e-6


@method(
    "speed",
    paper="arXiv:2503.07392",
    families=FAMILIES,
    mechanism="closed-form",
)
@dataclass(frozen=True)
class SPEED:
    """Edits cross-attention values without any effect on the retain set and the null text.

    Defaults from the authors' `train_erase_null.py`.
    """

    promises: ClassVar[tuple[Promise, ...]] = ("changes", "nears-anchors")
    crowded_from: ClassVar[int] = 10
    weighs_targets: ClassVar[bool] = True

    params: KeysOrValues = "V"
    """Matrices to edit: values, keys or both."""
    aug_num: int = 10
    """N_A, noisy copies of each retained text (DPA); 0 also switches the filter off."""
    threshold: float = 0.1
    """tau: eigenvectors of the mean second moment with smaller eigenvalues span the null space."""
    retain_scale: float = 1.0
    """a, ridge on the update, relative to the mean over targets."""
    lamb: float = 0.0
    """lambda_2, regulariser of the equalities (IEC): 0 holds the null text exactly."""
    disable_filter: bool = False
    """Also keep retained texts that the erasure changes little (IPF off)."""
    seed: int = 0
    """Seed of the noise and of the null text's centres."""
    null_text: Literal["centres", "all"] = "centres"
    """States of the null text to hold: the start state and three centres of the rest, or all."""
    tokens: Literal["last", "all"] | None = None
    """Last subject token, or all but the start token; None: all for kind explicit, else last."""

    def __post_init__(self) -> None:
        check_seed("speed", self.seed)
        require(self.aug_num >= 0, f"speed: aug_num must be >= 0, got {self.aug_num}")
        require(
            self.threshold > 0,
            f"speed: threshold must be > 0, got {self.threshold}; at 0 no direction is free to be edited",
        )
        require(
            self.retain_scale > 0,
            f"speed: retain_scale must be > 0, got {self.retain_scale}; without it the update is singular",
        )
        require(self.lamb >= 0, f"speed: lamb must be >= 0, got {self.lamb}")
        require(0 <= self.seed < 2**32, f"speed: seed must be in 0 .. 2^32 - 1, got {self.seed}")

    @torch.no_grad()
    def erase(
        self, model: ModelView, request: Request, services: MethodServices = NO_SERVICES
    ) -> LowRankEdit | TextMapEdit:
        """W' = W + W (C_a - C)^T Y, with Y solved inside each layer's projector P, which maps retained texts to 0.

        k targets have n rows in all, m retained rows, text width d: C, C_a (n, d) are divided by sqrt(k), as in the
        authors' means; Y (n, d). SDXL's pooled text still names the concept.
        """
        # Differs: the authors' code is for UNets. Flow models have one map for text states, which is edited in place of
        # the values, and one for the pooled text, which is edited in the same way (inferred).
        null = self._null_rows(model)
        targets, anchors = self._rows(model, request, request.targets, request.anchors)
        rows = _TextRows(targets, anchors, self._retained(model, request, null), self._held(null))
        own, pooled_maps = model.text_maps(), model.text_maps("pooled")
        maps = select_keys_or_values(own, self.params) or own
        weights = services.weights_of(request)
        found = self._solved(request, rows, maps, weights)
        figures = found.figures | {"not_retained": float(len(request.retain) - len(self._texts(request)))}
        wide = torch.promote_types(model.dtype, torch.float32)
        if not pooled_maps and not self.aug_num:
            return TextMapEdit(found.change.to(wide), found.ys[""].y.to(wide), tuple(maps), solve_figures=figures)
        pairs = found.pairs(maps, wide)
        if pooled_maps:
            pooled = self._solved(request, self._pooled_rows(model, request), pooled_maps, weights)
            pairs |= pooled.pairs(pooled_maps, wide)
            figures["pooled_projector_rank"] = pooled.figures["projector_rank"]
        return LowRankEdit(pairs, solve_figures=figures)

    def _solved(
        self, request: Request, rows: "_TextRows", maps: Mapping[str, Tensor], weights: Sequence[float] | None
    ) -> "_Solution":
        """Solve for the maps that read these rows; `RequestError` if nothing of a target may be edited."""
        share = len(request.targets) ** -0.5
        change = weigh_rows(share * (rows.anchors - rows.targets), weights)
        change, c = reduce_rows(change, weigh_rows(share * rows.targets, weights))
        # The edit without retained texts: the paper's D_e is W change^T times `alone`.
        alone = ridge_directions(c, c[:0], 1.0, 1.0, 1.0)
        left, spaces, ys = torch.zeros(len(rows.targets)).to(rows.targets), [], {}
        # Without copies there is one projector for all layers, so the edit is one map on the text.
        for name in maps if self.aug_num else ("",):
            refined = (
                self._refined(rows.retain, maps[name].double() @ change.T, alone.y, name, maps[name])
                if name
                else RefinedRetainSet.without_copies(rows.retain)
            )
            space = null_projector(refined, self.threshold)
            space = space if self.lamb else space.protecting(rows.held)
            left = torch.maximum(left, space(rows.targets).norm(dim=1) / rows.targets.norm(dim=1))
            ys[name] = self._directions(c, rows.held, space)
            spaces.append((space.rank, space.gap))
        rank, gap = map(min, zip(*spaces, strict=True))  # each the smallest of all layers
        _check_erasable(request, left, rank)
        condition = condition_figure(alone.condition, *(found.condition for found in ys.values()))
        figures = {"projector_rank": float(rank), "spectral_gap": gap, "threshold": self.threshold, **condition}
        return _Solution(change, ys, figures)

    def _pooled_rows(self, model: ModelView, request: Request) -> "_TextRows":
        """Return the pooled rows; the empty text's is held, and retained if nothing else is."""
        texts = self._texts(request)
        kept = texts if set(texts) - {""} else ("",)
        parts = request.targets, request.anchors, kept, ("",)
        return _TextRows(*(part.double() for part in embed_together(model, *parts, at="pooled")))

    def _rows(self, model: ModelView, request: Request, *parts: Sequence[str]) -> tuple[Tensor, ...]:
        """Return the rows of each list of texts: one for each text, or all but the constant start token's.

        In a language model's template, all are the last subject token and those after it, which the lists share.
        """
        if (self.tokens or ("all" if request.kind == "explicit" else "last")) == "last":
            return tuple(rows.double() for rows in embed_together(model, *parts))
        if model.tokenizer.frame is not None:
            tails = aligned_suffix_rows(model, *parts)
            return tuple(torch.cat(rows).double() for rows in zip(*tails, strict=True))
        first = content_positions(model, "")[0].start  # T5 has no start token.
        return tuple(states[:, first:].flatten(0, 1).double() for states in embed_together(model, *parts, at="all"))

    def _null_rows(self, model: ModelView) -> Tensor:
        """Return the rows (l, d) of the empty text; in a language model's template, those that the denoiser reads."""
        null = model.embed([""], at="all")
        return (attended_rows(model, [""], null)[0] if model.tokenizer.frame is not None else null[0]).double()

    def _texts(self, request: Request) -> tuple[str, ...]:
        """Return the retained texts that name no target.

        The others are left out, as in the authors' code, and counted in the report.
        """
        texts = tuple(without_names(request.retain, request.targets))
        message = f"each of the {len(request.retain)} retained texts names a target: retain others, or none"
        require(bool(texts) or not request.retain, message, RequestError)
        return texts

    def _retained(self, model: ModelView, request: Request, null: Tensor) -> Tensor:
        """Return the retained rows (m, d).

        If nothing or only the empty text is retained, these are the null text's states but the first, as in the
        authors' code.
        """
        texts = self._texts(request)
        return self._rows(model, request, texts)[0] if set(texts) - {""} else null[1:]

    def _held(self, null: Tensor) -> Tensor:
        """Return the rows to hold exactly (IEC): the null text's start state, and the others or their centres."""
        if self.null_text == "all":
            return null
        rest = null[1:]
        start = np.random.RandomState(self.seed).choice(len(rest), NULL_TEXT_CENTRES, replace=False)
        return torch.cat([null[:1], kmeans_centres(rest, rest[torch.from_numpy(start)], SETTLED_SHIFT)])

    def _refined(self, retain: Tensor, up: Tensor, alone: Tensor, name: str, w: Tensor) -> RefinedRetainSet:
        """Filter the retained rows by how much an unconstrained erasure would change them, then augment them."""
        chance = torch.Generator().manual_seed(int(hash_json([self.seed, name])[:15], 16))
        # Differs: the authors draw d normal numbers and use only their product with v, which is one normal number.
        noise = torch.randn(len(retain), self.aug_num, dtype=torch.float64, generator=chance).to(retain.device)
        kept = slice(None) if self.disable_filter else strongly_changed_rows(retain, up, alone)
        # Differs: copies are compared with the mean of all; the authors' mean is of 128 texts at a time, in random
        # order.
        return augment_rows(retain[kept], up, alone, weakest_direction(w), noise[kept])

    def _directions(self, c: Tensor, held: Tensor, projector: NullSpaceProjector) -> RidgeDirections:
        if self.lamb:
            return soft_projected_directions(c, held, projector, self.retain_scale, self.lamb)
        return projected_directions(c, projector, self.retain_scale)


@dataclass(frozen=True)
class _TextRows:
    """What maps read of a request, float64."""

    targets: Tensor  # (n, d)
    anchors: Tensor  # (n, d)
    retain: Tensor  # (m, d)
    held: Tensor  # (h, d): rows of the empty text


@dataclass(frozen=True)
class _Solution:
    """Y by the name of a map, or by "" for all maps."""

    change: Tensor  # C_a - C (r, d)
    ys: Mapping[str, RidgeDirections]
    figures: dict[str, float]

    def pairs(self, maps: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, tuple[Tensor, Tensor]]:
        """Up and down factors by the name of a map."""
        found = {}
        for name, w in maps.items():
            y = self.ys.get(name) or self.ys[""]
            found[name] = ((w.double() @ self.change.T).to(dtype), y.y.to(dtype))
        return found


def _check_erasable(request: Request, left: Tensor, rank: int) -> None:
    """Raise `RequestError` if a target cannot be erased.

    `left` (n,) is the share of each target row's length that the most open layer's projector keeps.
    """
    best = left.view(len(request.targets), -1).amax(1)
    lost = [target for target, share in zip(request.targets, best.tolist(), strict=True) if share <= _LEAST_REMAINDER]
    message = (
        f"{lost[:3]} not erasable under this retain set: its projector of rank {rank} leaves nothing of them; retain"
        " fewer texts, or raise threshold"
    )
    require(not lost, message, RequestError)
