"""Merges edits that were made independently, parameter by parameter, and stacks an edit on another.

Every merge is symmetric: the order of the edits only fixes how sums round. TIES is Yadav et al., NeurIPS 2023,
arXiv:2306.01708, as continual unlearning uses it (arXiv:2511.07970): every tensor is trimmed by itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..core.errors import EditError, require
from ..models import ModelView
from .base import Edit
from .weight_edits import DenseEdit

MergeMethod = Literal["uniform", "task-arithmetic", "ties"]


@dataclass(frozen=True)
class MergeSettings:
    """Says how to merge the changes of several edits.

    `uniform` takes the mean of the edited weights, `task-arithmetic` the scaled sum of the changes, `ties` the mean of
    the changes whose sign most of them share.
    """

    how: MergeMethod = "ties"
    scale: float = 1.0  # lambda, the factor of every change; `uniform` ignores it
    topk: float = 0.2  # TIES: keep this share of each tensor's entries, the largest

    def __post_init__(self) -> None:
        require(0 < self.topk <= 1, f"merge: topk must be a share, above 0 and at most 1, got {self.topk}")
        require(abs(self.scale) < float("inf"), f"merge: scale must be finite, got {self.scale}")

    def __call__(self, changes: Sequence[Tensor]) -> Tensor:
        """Merge the changes of one tensor (each of its shape), computing in float64."""
        stacked = torch.stack([change.double() for change in changes])
        if self.how == "uniform":
            return stacked.mean(0)
        if self.how == "task-arithmetic":
            return self.scale * stacked.sum(0)
        return ties_merge(stacked, self.scale, self.topk)


def ties_merge(changes: Tensor, scale: float, topk: float) -> Tensor:
    """Merge changes (n, ...) of one tensor: trim them, elect a sign, and take the mean of those that agree."""
    flat = scale * changes.flatten(1)
    entries = flat.shape[1]
    kept = max(1, round(topk * entries))
    # Differs: the authors' threshold keeps one entry more than asked for.
    threshold = flat.abs().kthvalue(entries - kept + 1, dim=1, keepdim=True).values
    trimmed = torch.where(flat.abs() >= threshold, flat, 0.0)
    elected = trimmed.sum(0).sign()
    elected = torch.where(elected == 0, elected.sum().sign(), elected)
    agreeing = torch.where(trimmed.sign() == elected, trimmed, 0.0)
    counts = (agreeing != 0).sum(0).clamp_min(1)
    return (agreeing.sum(0) / counts).view(changes.shape[1:])


@torch.no_grad()
def merge_edits(model: ModelView, edits: Sequence[Edit], how: MergeSettings) -> DenseEdit:
    """Merge edits that were each made for the unedited model. A parameter that an edit leaves alone has change 0."""
    require(bool(edits), "nothing to merge: give at least one edit", EditError)
    names = sorted({name for edit in edits for name in edit.names})
    deltas = {}
    for name, weight in model.reference(names).items():
        wide = torch.promote_types(weight.dtype, torch.float32)
        zero = torch.zeros_like(weight, dtype=wide)
        deltas[name] = how([edit.delta(name, weight) if name in edit.names else zero for edit in edits]).to(wide)
    return DenseEdit(deltas)


@torch.no_grad()
def stack_edits(model: ModelView, under: Edit | None, edit: Edit) -> Edit:
    """Return `under` plus an edit that was made on top of it, as one edit of the unedited model."""
    if under is None:
        return edit
    deltas = {}
    for name, weight in model.reference(sorted({*under.names, *edit.names})).items():
        wide = torch.promote_types(weight.dtype, torch.float32)
        own = weight.to(wide)
        first = under.delta(name, weight).to(own) if name in under.names else torch.zeros_like(own)
        deltas[name] = first + edit.delta(name, own + first).to(own) if name in edit.names else first
    return DenseEdit(deltas)
