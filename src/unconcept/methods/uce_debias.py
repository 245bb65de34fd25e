"""Unified Concept Editing (UCE), its debiasing: Gandikota et al., WACV 2024, arXiv:2308.14761.

A concept is read as itself with a little of each attribute, more of those that its pictures show too seldom, until the
shares drawn are those wanted. Closed form; pictures are drawn and counted between the solves.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.errors import require
from ..core.request import Request
from ..core.sentences import check_sentences
from ..edits import TextMapEdit
from ..linalg.ridge import ridge_directions
from ..linalg.thin import thinned
from ..models import ModelView
from ..models.rows import read_together
from .registry import Observe, method


@method(
    "uce-debias",
    paper="arXiv:2308.14761",
    families=("sd1", "sd2", "sdxl"),
    does="debias",
    way="closed-form",
    elsewhere="its paper and scripts debias through cross-attention alone",
)
@dataclass(frozen=True)
class UCEDebias:
    """Balances how often pictures of a target show each attribute. Defaults from the authors' 2025 `uce_sd_debias.py`."""

    attributes: tuple[str, ...] = ("woman", "man")
    ratios: tuple[float, ...] = ()  # wanted share of each attribute; () is equal shares
    max_diff: float = 0.05  # a target whose shares are all nearer than this is left as it is
    rounds: int = 30  # of drawing, at most
    images: int = 10  # drawn for each target in a round
    templates: tuple[str, ...] = ("{}",)  # wordings of targets and retained texts, all of them edited, {} in a text's place
    step_size: float = 1.0  # attribute added for each unit of missing share
    erase_scale: float = 1.0  # weight of each target, set E
    preserve_scale: float = 0.1  # weight of each retained text, set P
    lamb: float = 0.5  # lambda, pull towards the old weights

    def __post_init__(self) -> None:
        count = len(set(self.attributes))
        require(count >= 2, f"uce-debias: attributes are {list(self.attributes)}: name at least two, such as woman and man")
        require(count == len(self.attributes), f"uce-debias: an attribute is named twice in {list(self.attributes)}: name it once")
        require(all(text.strip() for text in self.attributes), f"uce-debias: attributes {list(self.attributes)}: each needs at least one word")
        ratios = self.wanted
        require(len(ratios) == count, f"uce-debias: {count} attributes but {len(ratios)} ratios: give one for each, or none")
        sound = min(ratios) >= 0 and abs(sum(ratios) - 1) < 1e-6
        require(sound, f"uce-debias: ratios {list(ratios)} are no shares: give numbers >= 0 that sum to 1")
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
        """The share of each attribute."""
        return self.ratios or (1 / len(self.attributes),) * len(self.attributes)

    @torch.no_grad()
    def erase(self, model: ModelView, request: Request, observe: Observe) -> TextMapEdit:
        """Eq. 7 with v* = W (c + sum_a beta_a a) as W' = W (I + X^T Y), X = beta A; each round adds step_size (wanted - drawn) to beta.

        n targets and m retained texts in f wordings, p attributes, text width d: C (n f, d), A (p, d), beta (n, p), Y (n f, d). Values
        are summed up over the rounds and each round is solved from the original weights, as in the 2025 script, so that Y is solved once.
        """
        # Differs: the 2025 script reads a step_size of 0.1 and does not use it, which is 1 here.
        # Differs: the 2023 script takes steps of 0.1 along unit vectors, each from the last round's weights; of it we have the wordings alone.
        # Differs: shares are of the pictures that show any attribute; the authors' CLIP finds one in every picture.
        texts = self._worded(request.targets), self.attributes, self._worded(request.retain)
        c, a, p = (rows.double() for rows in read_together(model, *texts))
        y = ridge_directions(c, p, self.erase_scale, self.preserve_scale, self.lamb).y
        beta, gaps = (c.new_zeros(len(request.targets), len(a)) for _ in range(2))
        left, turn = list(range(len(beta))), 0
        while left and turn < self.rounds:
            with self._edit(model, self._values(beta, a), y).applied(model):
                for i in left:
                    gaps[i] = self._gap(observe, request.targets[i], turn).to(gaps)
            left = [i for i in left if float(gaps[i].abs().max()) >= self.max_diff]
            beta[left] += self.step_size * gaps[left]
            turn += 1
        figures = {"rounds": float(turn), "largest_gap": float(gaps.abs().max())}
        for target, row in zip(request.targets, beta.tolist(), strict=True):
            figures |= {f"{attribute} in {target}": share for attribute, share in zip(self.attributes, row, strict=True)}
        return self._edit(model, self._values(beta, a), y, figures)

    def _worded(self, texts: Sequence[str]) -> tuple[str, ...]:
        return tuple(form.replace("{}", text) for text in texts for form in self.templates)

    def _values(self, beta: Tensor, a: Tensor) -> Tensor:
        """X (n f, d): each wording of a target is given the same."""
        return (beta @ a).repeat_interleave(len(self.templates), 0)

    def _gap(self, observe: Observe, target: str, turn: int) -> Tensor:
        """Wanted minus drawn share of each attribute (p,)."""
        seen = torch.tensor(list(observe(target, self.attributes, self.images, turn)), dtype=torch.float64)
        message = f"uce-debias: none of {self.images} pictures of {target!r} in round {turn + 1} shows {' or '.join(self.attributes)}: "
        require(bool(seen.sum() > 0), message + "name attributes that the model draws, draw more images, or take a smaller step_size")
        return torch.tensor(self.wanted, dtype=seen.dtype) - seen / seen.sum()

    def _edit(self, model: ModelView, x: Tensor, y: Tensor, figures: dict[str, float] | None = None) -> TextMapEdit:
        wide = torch.promote_types(model.dtype, torch.float32)
        thin_x, thin_y = thinned(x, y)
        return TextMapEdit(thin_x.to(wide), thin_y.to(wide), tuple(sorted(model.text_maps())), solve_figures=figures or {})
