"""Transforms of gradients and weights around an optimizer step.

Each works with every training and is the identity at its neutral setting. Tensors come as lists in the order of the
trained tensors. Apply transforms in the order drift, mask, subspace, clip; surgery joins the gradients of several terms
before them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import cos, pi
from typing import Protocol

import torch
from torch import Tensor

from ..core.errors import require
from ..linalg.masked_projection import project_within_masks
from ..linalg.null_space import project_out

GradientList = list[Tensor]
GradientJoin = Callable[[Mapping[str, GradientList]], GradientList]  # gradients of each term of a loss, by name, to one


class GradientTransform(Protocol):
    """A transform around a step. One with a state of its own also has `state` and `restore` (see `state_file.py`)."""

    def gradient(self, step: int, gradients: GradientList, params: Sequence[Tensor]) -> GradientList | None:
        """Return the gradient to follow; `params` are those before the step.

        None skips the step, and the optimizer does not count it.
        """

    def after_step(self, params: Sequence[Tensor]) -> None:
        """Correct the weights in place after the optimizer's step."""


def move_beside(tensors: Sequence[Tensor], others: Sequence[Tensor]) -> list[Tensor]:
    """Return each tensor on the device of its counterpart: a state that was saved is read onto the CPU."""
    return [tensor.to(other.device) for tensor, other in zip(tensors, others, strict=True)]


@dataclass(frozen=True)
class StartDistancePenalty:
    """Adds the gradient of weight * sum |w - w0|^power / n, over all n trained numbers (L1-SP, L2-SP of CUIG)."""

    start: Sequence[Tensor]
    weight: float
    power: int = 2

    def __post_init__(self) -> None:
        require(
            self.power in (1, 2) and self.weight >= 0,
            f"drift: power must be 1 or 2 and weight must be >= 0, got {self.power} and {self.weight}",
        )

    def gradient(self, step: int, gradients: GradientList, params: Sequence[Tensor]) -> GradientList:
        scale = self.weight / sum(tensor.numel() for tensor in self.start)
        moved = [param.detach() - own for param, own in zip(params, self.start, strict=True)]
        pulls = [2 * d if self.power == 2 else d.sign() for d in moved]
        return [g + scale * pull for g, pull in zip(gradients, pulls, strict=True)]

    def after_step(self, params: Sequence[Tensor]) -> None:
        """Nothing to put right."""


@dataclass(frozen=True)
class WeightMask:
    """Freezes weights exactly where a mask is False, whatever the optimizer's decay and momentum do."""

    start: Sequence[Tensor]
    masks: Sequence[Tensor]  # bool, in the shape of each tensor

    def gradient(self, step: int, gradients: GradientList, params: Sequence[Tensor]) -> GradientList:
        return [g * mask for g, mask in zip(gradients, self.masks, strict=True)]

    def after_step(self, params: Sequence[Tensor]) -> None:
        with torch.no_grad():
            for param, mask, own in zip(params, self.masks, self.start, strict=True):
                param.copy_(torch.where(mask, param, own))


@dataclass
class DynamicWeightMask:
    """Chooses a mask by summed gradients after `warm_up` steps and updates it every `interval` (Sculpting Memory).

    Before it is chosen, no step is taken. An update swaps a share of `turnover` of the active entries, those with the
    smallest sums, for as many inactive ones with the largest sums. Updates are counted from the first step of the
    warm-up. The share falls from epoch to epoch as a half cosine; from the share `last` of all epochs on nothing is
    swapped.
    """

    share: float  # of each masked tensor's entries that are active
    warm_up: int
    interval: int
    turnover: float
    epochs: int
    epoch: int = 1  # steps of one
    last: float = 0.8
    free: Sequence[bool] = ()  # whether each tensor is trained without a mask; () means all are masked
    exact: bool = True  # freeze inactive entries; else momentum still moves them, as in the authors' code
    sums: list[Tensor] = field(default_factory=list)
    masks: list[Tensor] = field(default_factory=list)
    before: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        require(
            0 < self.share <= 1 and 0 <= self.turnover <= 1,
            f"mask: shares must be within 0 and 1, got {self.share} and {self.turnover}",
        )
        require(
            self.warm_up > 0 or self.share == 1,
            "mask: a share below 1 needs a warm-up to choose entries by, and warm_up is 0: give it some steps",
        )

    def gradient(self, step: int, gradients: GradientList, params: Sequence[Tensor]) -> GradientList | None:
        if not self.sums:
            self.sums = [torch.zeros_like(g) for g in gradients]
            self.masks = [torch.zeros_like(g, dtype=torch.bool) for g in gradients]
        self.sums, self.masks = move_beside(self.sums, gradients), move_beside(self.masks, gradients)
        if step == self.warm_up:
            self._redraw([largest_share_mask(total.abs(), self.share) for total in self.sums])
        elif (
            step > self.warm_up
            and step % self.interval == 0
            and self._epoch_before(step) < int(self.last * self.epochs)
        ):
            share = self.turnover * 0.5 * (1 + cos(pi * self._epoch_before(step) / self.epochs))
            self._redraw(
                [turn_over_mask(mask, total.abs(), share) for mask, total in zip(self.masks, self.sums, strict=True)]
            )
        for total, g in zip(self.sums, gradients, strict=True):
            total += g
        if step < self.warm_up:
            return None
        self.before = [param.detach().clone() for param in params] if self.exact else []
        return [g * mask for g, mask in zip(gradients, self.masks, strict=True)]

    def _epoch_before(self, step: int) -> int:
        """Return the number of the epoch that the step before this one belongs to."""
        return (step - 1) // self.epoch

    def after_step(self, params: Sequence[Tensor]) -> None:
        """Reset inactive entries to their values before the step."""
        if not self.exact:
            return
        with torch.no_grad():
            for param, mask, own in zip(params, self.masks, self.before, strict=True):
                param.copy_(torch.where(mask, param, own))

    def _redraw(self, masks: list[Tensor]) -> None:
        free = self.free or [False] * len(masks)
        self.masks = [torch.ones_like(mask) if moves else mask for mask, moves in zip(masks, free, strict=True)]
        for total in self.sums:
            total.zero_()

    def state(self) -> dict[str, Tensor]:
        return {f"sum.{i}": t for i, t in enumerate(self.sums)} | {f"mask.{i}": t for i, t in enumerate(self.masks)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        numbers = range(len(state) // 2)
        self.sums = [state[f"sum.{i}"].clone() for i in numbers]
        self.masks = [state[f"mask.{i}"].clone() for i in numbers]


def top_share_mask(scores: Sequence[Tensor], share: float) -> list[Tensor]:
    """Return masks that are True on the entries with the largest scores among all tensors.

    Exactly floor(`share` x number of entries) are True; of equal scores the first win.
    """
    flat = torch.cat([score.flatten() for score in scores])
    count = int(share * len(flat) + 1e-9)
    found = torch.zeros_like(flat, dtype=torch.bool)
    if count:
        threshold = flat.kthvalue(len(flat) - count + 1).values
        found = flat > threshold
        found[(flat == threshold).nonzero()[: count - int(found.sum()), 0]] = True
    return _split_like(found, scores)


def _split_like(flat: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Split a flat tensor into the shapes of these."""
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]


def largest_share_mask(scores: Tensor, share: float) -> Tensor:
    """Return a mask that is True on the `share` of entries with the largest scores, with all ties at the threshold."""
    count = max(1, int(share * scores.numel()))
    return scores >= scores.flatten().kthvalue(scores.numel() - count + 1).values


def turn_over_mask(mask: Tensor, scores: Tensor, share: float) -> Tensor:
    """Swap `share` of the mask's active entries, those of lowest score, for as many inactive ones of highest score."""
    count = min(int(share * int(mask.sum())), int((~mask).sum()))
    found = mask.flatten().clone()
    out = scores.flatten().masked_fill(~found, torch.inf).topk(count, largest=False).indices
    into = scores.flatten().masked_fill(found, -torch.inf).topk(count).indices
    found[out] = False
    found[into] = True
    return found.view_as(mask)


@dataclass(frozen=True)
class SubspaceProjection:
    """Keeps a matrix's effect on protected input directions: projects gradients, g P, and changes, (w - w0) P.

    P = I - B B^T with one B (d, q) for each tensor, None if a tensor is free. The change is projected too, because
    Adam's scaling leaves the subspace. `exact=False` is the authors' form, which projects the gradient alone.
    """

    start: Sequence[Tensor]
    protected_basis: Sequence[Tensor | None]
    exact: bool = True

    def gradient(self, step: int, gradients: GradientList, params: Sequence[Tensor]) -> GradientList:
        return [
            g if b is None else project_out(g, b.to(g)) for g, b in zip(gradients, self.protected_basis, strict=True)
        ]

    def after_step(self, params: Sequence[Tensor]) -> None:
        if not self.exact:
            return
        with torch.no_grad():
            for param, own, b in zip(params, self.start, self.protected_basis, strict=True):
                if b is not None:
                    param.copy_(own + project_out(param - own, b.to(param)))


@dataclass(frozen=True)
class MaskedSubspaceProjection:
    """Applies `WeightMask` and `SubspaceProjection` at once, both exactly.

    Applying one after the other would fail: the projection of a masked change is not zero where the mask is False.
    """

    start: Sequence[Tensor]
    masks: Sequence[Tensor]  # bool, in the shape of each tensor
    protected_basis: Sequence[Tensor | None]  # orthonormal columns (d, q) for each tensor, None if it is free
    factors: Sequence[Tensor | None]  # factorisation of each row's problem; None if too large to keep

    def gradient(self, step: int, gradients: GradientList, params: Sequence[Tensor]) -> GradientList:
        """Project the gradient roughly; `after_step` corrects the result exactly."""
        free = [g * mask for g, mask in zip(gradients, self.masks, strict=True)]
        return [
            g if b is None else project_out(g, b.to(g)) * mask
            for g, mask, b in zip(free, self.masks, self.protected_basis, strict=True)
        ]

    def after_step(self, params: Sequence[Tensor]) -> None:
        with torch.no_grad():
            for param, own, mask, b, factor in zip(
                params, self.start, self.masks, self.protected_basis, self.factors, strict=True
            ):
                change = param - own
                param.copy_(
                    torch.where(
                        mask, own + (change if b is None else project_within_masks(change, mask, b, factor)), own
                    )
                )


@dataclass(frozen=True)
class GradientClip:
    """Scales the whole gradient down to at most this norm."""

    norm: float  # inf: no limit

    def __post_init__(self) -> None:
        require(self.norm > 0, f"clip: the norm must be > 0, got {self.norm}")

    def gradient(self, step: int, gradients: GradientList, params: Sequence[Tensor]) -> GradientList:
        total = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in gradients]))
        return gradients if total <= self.norm else [g * (self.norm / (total + 1e-6)) for g in gradients]

    def after_step(self, params: Sequence[Tensor]) -> None:
        """Nothing to put right."""


def project_conflict(a: Tensor, b: Tensor, strength: float = 1.0) -> Tensor:
    """Remove from `a` its component against `b`: a - strength <a, b> / <b, b> b if <a, b> < 0.

    With strength 1 the result is orthogonal to b.
    """
    inner = torch.sum(a * b)
    return a - strength * inner / torch.sum(b * b) * b if inner < 0 else a


def one_way_surgery(leading: str, guarding: str, strength: float = 1.0) -> GradientJoin:
    """Build a gradient surgery by tensor (DoCo): follow the leading term without its conflict with the guarding one.

    The guarding term's own gradient is not followed.
    """
    return lambda terms: [
        project_conflict(a, b, strength) for a, b in zip(terms[leading], terms[guarding], strict=True)
    ]
