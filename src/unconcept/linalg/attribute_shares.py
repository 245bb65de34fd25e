"""Shares of attributes, balanced by adding attributes to a concept's value: what UCE's debiasing iterates."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.errors import require


@dataclass(frozen=True)
class AttributeShift:
    """Rows of a wording of a target (l, d), and those of each attribute in the same wording (p, l, d), float64."""

    target: int
    """The target's index in the request."""
    rows: Tensor
    attributes: Tensor


def shift_values(beta: Tensor, shifts: Sequence[AttributeShift]) -> Tensor:
    """Return X (r, d): every wording of a target gets its attributes in the shares beta (n, p)."""
    return torch.cat([torch.einsum("p,pld->ld", beta[one.target].to(one.rows), one.attributes) for one in shifts])


def wanted_shares(owner: str, attributes: Sequence[str], ratios: Sequence[float]) -> tuple[float, ...]:
    """Return the wanted share of each attribute, equal ones by default; `SettingsError` if they do not fit."""
    count = len(set(attributes))
    listed = list(attributes)
    require(count >= 2, f"{owner}: attributes are {listed}: name at least two, such as woman and man")
    require(count == len(attributes), f"{owner}: an attribute is named twice in {listed}: name it once")
    has_words = all(text.strip() for text in attributes)
    require(has_words, f"{owner}: attributes {listed}: each needs at least one word")
    wanted = tuple(ratios) or (1 / count,) * count
    message = f"{owner}: {count} attributes but {len(wanted)} ratios: give one for each, or none"
    require(len(wanted) == count, message)
    sound = min(wanted) >= 0 and abs(sum(wanted) - 1) < 1e-6
    require(sound, f"{owner}: ratios {list(wanted)} are not shares: give numbers >= 0 that sum to 1")
    return wanted


def balance_shares(
    beta: Tensor,
    measure: Callable[[Tensor, Sequence[int], int], Tensor],
    step_size: float,
    max_diff: float,
    rounds: int,
) -> tuple[Tensor, Tensor, int]:
    """Add step_size times the missing share to beta (n, p) until each target's shares are within max_diff.

    `measure` gives the missing shares (m, p) of the targets with the given indexes under a beta, in a round. Returns
    beta, the last missing shares (n, p) and the number of rounds.
    """
    gaps = torch.zeros_like(beta)
    left, turn = list(range(len(beta))), 0
    while left and turn < rounds:
        gaps[left] = measure(beta, left, turn).to(gaps)
        left = [i for i in left if float(gaps[i].abs().max()) >= max_diff]
        beta = beta.clone()
        beta[left] += step_size * gaps[left]
        turn += 1
    return beta, gaps, turn
