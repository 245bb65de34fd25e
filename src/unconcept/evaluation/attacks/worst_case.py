"""Worst-case forget sets: Fan et al., ECCV 2024, arXiv:2403.07362.

Which m of N candidates are hardest to erase? Each candidate has a weight in [0, 1]. All are erased together under their
weights, always from the unedited model, and the weights follow what the erasure leaves: those of candidates that it
leaves as they were grow.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from math import comb

import torch
from torch import Tensor

from ...core.errors import SettingsError, require

_TOLERANCE, _MOST_BISECTIONS = 1e-6, 100  # of the projection
_FIRST_CHANGE = 0.3  # largest change of a weight in the first step of an automatic rate


@dataclass(frozen=True)
class SetSearchSettings:
    """Settings of the search. Defaults from the authors' README, but for the rate."""

    size: int
    """m, the number of candidates to choose."""
    outer: int = 10
    """Erasures; each gives the weights one step."""
    w_lr: float | None = None
    """Rate of the weights; None: such that the first step changes none by more than 0.3 (the authors': 100)."""
    gamma: float = 1e-4
    """Weight of |w|^2, which keeps weights apart from 0 and 1."""

    def __post_init__(self) -> None:
        require(self.size > 0, f"size {self.size}: choose at least one candidate", SettingsError)
        require(self.outer > 0, f"outer {self.outer}: give the weights at least one step", SettingsError)
        require(self.gamma >= 0, f"gamma must be >= 0, got {self.gamma}", SettingsError)
        require(self.w_lr is None or self.w_lr > 0, f"w_lr must be > 0, got {self.w_lr}", SettingsError)


@dataclass
class SetSearch:
    """The weights of N candidates and their steps: minimise w . l(w) + gamma |w|^2 over 0 <= w <= 1, sum w = m.

    The gradient is l + 2 gamma w, as in the paper: an erasure by signs of gradients changes with w at jumps alone.
    `easiest` turns the sign of l. Raises `SettingsError` if there are fewer than m candidates.
    """

    count: int
    settings: SetSearchSettings
    easiest: bool = False
    weights: Tensor = field(init=False)
    """Now, (N,), float64."""

    def __post_init__(self) -> None:
        size = self.settings.size
        message = f"a set of {size} out of {self.count} candidates: name more, or choose a smaller --size"
        require(size < self.count, message, SettingsError)
        self._rate = self.settings.w_lr
        self.weights = torch.full((self.count,), size / self.count, dtype=torch.float64)

    def advance(self, losses: Tensor) -> None:
        """Take a step along the candidates' losses (N,), which are small where an erasure leaves them as they were."""
        signed = -losses.double() if self.easiest else losses.double()
        gradient = signed + 2 * self.settings.gamma * self.weights
        if self._rate is None:
            spread = float((gradient - gradient.mean()).abs().max())
            self._rate = _FIRST_CHANGE / spread if spread > 0 else 0.0
        self.weights = project_to_capped_simplex(self.weights - self._rate * gradient, self.settings.size)

    @property
    def chosen(self) -> tuple[int, ...]:
        """The m candidates of the largest weights, in their order."""
        order = torch.argsort(self.weights, descending=True, stable=True).tolist()
        return tuple(sorted(order[: self.settings.size]))


def select_worst_case(
    names: Sequence[str], losses: Callable[[Tensor], Tensor], settings: SetSearchSettings
) -> tuple[str, ...]:
    """Choose the m names that are hardest to erase. `losses` erases under weights (N,) and returns losses (N,)."""
    search = SetSearch(len(names), settings)
    for _ in range(settings.outer):
        search.advance(losses(search.weights))
    return tuple(names[i] for i in search.chosen)


def project_to_capped_simplex(w: Tensor, total: float) -> Tensor:
    """Return the point nearest to w (n,) with entries in [0, 1] that sum to `total`, by bisection on a common shift."""
    low, high = float(w.min()) - 1, float(w.max())
    for _ in range(_MOST_BISECTIONS):
        middle = (low + high) / 2
        excess = float((w - middle).clamp(0, 1).sum()) - total
        if abs(excess) < _TOLERANCE:
            break
        low, high = (middle, high) if excess > 0 else (low, middle)
    return (w - (low + high) / 2).clamp(0, 1)


def random_sets(count: int, size: int, wanted: int, seed: int) -> list[tuple[int, ...]]:
    """Draw different sets of `size` out of `count` candidates; all sets if there are no more than `wanted`."""
    if comb(count, size) <= wanted:
        return list(combinations(range(count), size))
    rng, found = random.Random(f"forget sets {seed}"), dict[tuple[int, ...], None]()
    while len(found) < wanted:
        found[tuple(sorted(rng.sample(range(count), size)))] = None
    return list(found)


def drawn_members(weights: Sequence[float], start: float) -> tuple[int, ...]:
    """Draw a set in which each candidate stands with its weight as probability (systematic sampling, Madow 1949).

    `start` in [0, 1) is the random number. As many are drawn as the weights sum to.
    """
    found, total = [], 0.0
    for i, weight in enumerate(weights):
        before, total = total, total + weight
        if int(total - start + 1 + _TOLERANCE) > int(before - start + 1 + _TOLERANCE):
            found.append(i)
    return tuple(found)
