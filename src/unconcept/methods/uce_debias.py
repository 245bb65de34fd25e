"""Unified Concept Editing (UCE), its debiasing: Gandikota et al., WACV 2024, arXiv:2308.14761.

Adds a little of each attribute to a concept, more of those that its images show too seldom, until the images have the
wanted shares. Closed form; between the solves, images are sampled and counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..core.errors import RequestError, require
from ..core.request import Request
from ..edits import TextMapEdit
from ..linalg.attribute_shares import AttributeShift, balance_shares, shift_values, wanted_shares
from ..linalg.low_rank import reduce_rows
from ..linalg.moments import SecondMoments
from ..linalg.ridge import ridge_directions
from ..models import ModelView
from ..models.text.alignment import aligned_suffix_rows
from ..models.text.state_rows import embed_together, text_state_moments
from ..models.text.text_identity import require_each_named_once
from ..prompts.templates import check_sentences, refuse_named_targets
from .registry import NO_SERVICES, AttributeCounter, MethodServices, Promise, method


@method(
    "uce-debias",
    paper="arXiv:2308.14761",
    families=("sd1", "sd2", "sdxl"),
    does="debias",
    mechanism="closed-form",
    uses=("attribute_counter",),
    unsupported_reason="its paper and scripts debias through cross-attention alone",
)
@dataclass(frozen=True)
class UCEDebias:
    """Balances how often images of a target show each attribute.

    Defaults from the authors' 2025 `uce_sd_debias.py`.
    """

    # It changes nothing where the model is balanced already.
    promises: ClassVar[tuple[Promise, ...]] = ()

    attributes: tuple[str, ...] = ("woman", "man")
    """Attributes to balance in images of a target."""
    ratios: tuple[float, ...] = ()
    """Wanted share of each attribute; () is equal shares."""
    max_diff: float = 0.05
    """Stop for a target if all its shares differ by less than this from the wanted ones."""
    rounds: int = 30
    """Largest number of rounds of sampling."""
    images: int = 10
    """Images of each target in a round."""
    templates: tuple[str, ...] = ("{}",)
    """Wordings of targets, attributes and retained texts, with {} in the text's place."""
    tokens: Literal["last", "last+tail"] = "last"
    """Edit the last subject token (2025 script), or it and all tokens after it (2023)."""
    step_size: float = 1.0
    """Amount of an attribute added for each unit of missing share."""
    erase_scale: float = 1.0
    """Weight of each target (set E), > 0."""
    preserve_scale: float = 1.0
    """Weight of each retained text (set P), >= 0."""
    lamb: float = 0.5
    """lambda, pull towards the old weights, > 0."""

    def __post_init__(self) -> None:
        wanted_shares("uce-debias", self.attributes, self.ratios)
        require(0 < self.max_diff < 1, f"uce-debias: max_diff must be a share, 0 to 1, got {self.max_diff}")
        require(len(self.templates) > 0, 'uce-debias: templates are empty: give at least "{}"')
        check_sentences("uce-debias", self.templates)
        for name in ("rounds", "images"):
            require(getattr(self, name) >= 1, f"uce-debias: {name} must be >= 1, got {getattr(self, name)}")
        for name in ("step_size", "erase_scale", "lamb"):
            require(getattr(self, name) > 0, f"uce-debias: {name} must be > 0, got {getattr(self, name)}")
        require(self.preserve_scale >= 0, f"uce-debias: preserve_scale must be >= 0, got {self.preserve_scale}")

    @property
    def wanted(self) -> tuple[float, ...]:
        """The wanted share of each attribute."""
        return wanted_shares("uce-debias", self.attributes, self.ratios)

    @torch.no_grad()
    def erase(self, model: ModelView, request: Request, services: MethodServices = NO_SERVICES) -> TextMapEdit:
        """Solve Eq. 7 with v* = W (c + sum_a beta_a a) as W' = W (I + X^T Y), X = beta A.

        Each round adds step_size (wanted - sampled share) to beta. n targets, p attributes, text width d, and r rows of
        the targets' wordings: C (r, d), for each row A (p, d), beta (n, p), Y (r, d). Values add up over the rounds,
        and each round is solved from the original weights, as in the 2025 script, so Y is solved once. SDXL's pooled
        text still names the target alone.
        """
        # Differs: the 2025 script has a step_size of 0.1 and does not use it; that is a step_size of 1 here.
        # Differs: the 2023 script takes steps of 0.1 along unit vectors, each from the last round's weights. We took
        # from it the wordings, which pair a target's with the same one of an attribute, and the tail.
        # Differs: shares are of the images that show any attribute; the authors' CLIP finds one in every image.
        count = services.attribute_counter
        if count is None:
            raise RequestError(
                "uce-debias must judge the images it samples, by a judge that does not grade: name one, --method-judge"
                " clip-score=FOLDER"
            )
        refuse_named_targets("uce-debias", self.templates, request.targets)
        require_each_named_once("uce-debias", "attributes", self.attributes, model)
        pushes, retained = self._read(model, request)
        y = ridge_directions(
            torch.cat([push.rows for push in pushes]), retained, self.erase_scale, self.preserve_scale, self.lamb
        ).y

        def measure(beta: Tensor, left: Sequence[int], turn: int) -> Tensor:
            with self._edit(model, shift_values(beta, pushes), y).applied(model):
                return torch.stack([self._gap(count, request.targets[i], turn) for i in left])

        none = y.new_zeros(len(request.targets), len(self.attributes))
        beta, gaps, turn = balance_shares(none, measure, self.step_size, self.max_diff, self.rounds)
        figures = {"rounds": float(turn), "largest_gap": float(gaps.abs().max())}
        for target, row in zip(request.targets, beta.tolist(), strict=True):
            figures |= {
                f"{attribute} in {target}": share for attribute, share in zip(self.attributes, row, strict=True)
            }
        return self._edit(model, shift_values(beta, pushes), y, figures)

    def _read(self, model: ModelView, request: Request) -> tuple[list[AttributeShift], Tensor | SecondMoments]:
        """Return each target's wordings with those of the attributes, and the retained rows.

        With the tail, all rows of retained texts and of "" are retained.
        """
        texts, retained = self._worded(request.targets), self._worded(request.retain)
        words = [self._worded((attribute,)) * len(request.targets) for attribute in self.attributes]
        if self.tokens == "last":
            *read, kept = embed_together(model, texts, *words, retained)
            by_wording = list(zip(*(rows[:, None] for rows in read), strict=True))
            return self._pushes(by_wording), kept.double()
        return self._pushes(aligned_suffix_rows(model, texts, *words)), text_state_moments(
            model, tuple(dict.fromkeys(("", *retained)))
        )

    def _pushes(self, read: Sequence[Sequence[Tensor]]) -> list[AttributeShift]:
        """Build the shifts from lists of rows (l, d): those of a wording, then those of each attribute."""
        return [
            AttributeShift(i // len(self.templates), rows.double(), torch.stack(beside).double())
            for i, (rows, *beside) in enumerate(read)
        ]

    def _worded(self, texts: Sequence[str]) -> tuple[str, ...]:
        return tuple(form.replace("{}", text) for text in texts for form in self.templates)

    def _gap(self, count: AttributeCounter, target: str, turn: int) -> Tensor:
        """Return the wanted minus the sampled share of each attribute (p,)."""
        seen = torch.tensor(list(count(target, self.attributes, self.images, turn)), dtype=torch.float64)
        message = (
            f"uce-debias: none of {self.images} pictures of {target!r} in round {turn + 1} shows"
            f" {' or '.join(self.attributes)}: "
        )
        require(
            bool(seen.sum() > 0),
            message + "name attributes that the model can draw, sample more images, or use a smaller step_size",
        )
        return torch.tensor(self.wanted, dtype=seen.dtype) - seen / seen.sum()

    def _edit(self, model: ModelView, x: Tensor, y: Tensor, figures: dict[str, float] | None = None) -> TextMapEdit:
        wide = torch.promote_types(model.dtype, torch.float32)
        thin_x, thin_y = reduce_rows(x, y)
        return TextMapEdit(
            thin_x.to(wide), thin_y.to(wide), tuple(sorted(model.text_maps())), solve_figures=figures or {}
        )
