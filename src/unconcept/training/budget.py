"""The budget of a training by the number of its targets: one rule for all trained methods.

The papers' budgets are for one concept. ESD gives 1000 steps to four words for nudity, as to one name; we take such
four for what one budget serves. MACE, Sculpting Memory and SPM begin a budget of its own for each further concept, so
beyond four targets ours grows in proportion. A style of `moji` is eighteen targets, its names in captions; an object is
three.
"""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from math import ceil

import torch

from ..core.seeds import numbered_seed
from .session import current_session

TARGETS_PER_BUDGET = 4
MOST_BUDGETS = 10
"""Beyond forty targets, they share ten budgets."""


def training_budget(steps: int, targets: int, least: int = 1) -> int:
    """Return the steps of a training on several targets, of a budget of `steps` for up to four.

    More targets have proportionally more, up to ten budgets, and `least` for each target in any case. With the training
    option `budget` "fixed", or without a budget, it is `steps`.
    """
    if targets <= TARGETS_PER_BUDGET or steps == 0 or current_session().options.budget == "fixed":
        return steps
    budgets = min(targets / TARGETS_PER_BUDGET, MOST_BUDGETS)
    return max(ceil(steps * budgets), targets * least)


def number_in_turn(step: int, targets: int, seed: int) -> int:
    """Return the number of a step's target: each turn takes all of them once, in its own random order."""
    turn, place = divmod(step, targets)
    order = torch.randperm(targets, generator=torch.Generator().manual_seed(numbered_seed(seed, turn)))
    return int(order[place])


def text_in_turn(step: int, texts: Sequence[str], seed: int, weights: Sequence[float] | None = None) -> str:
    """Return a step's text: each turn takes all of them once, in its own random order.

    With weights, one for each text, they are taken as often as these say, in systematic samples: of n texts one with
    weight w, relative to their mean, has w steps of a turn, rounded up or down by chance.
    """
    if weights is None:
        return texts[number_in_turn(step, len(texts), seed)]
    turn, place = divmod(step, len(texts))
    rng = torch.Generator().manual_seed(numbered_seed(seed, turn))
    order = torch.randperm(len(texts), generator=rng)
    at = (int(order[place]) + float(torch.rand((), generator=rng, dtype=torch.float64))) / len(texts)
    ends = list(accumulate(weights))
    return texts[min(bisect_right(ends, at * ends[-1]), _last_weighed(weights))]


def _last_weighed(weights: Sequence[float]) -> int:
    """The last index with a weight > 0: where rounding may lead past the end."""
    return max(i for i, weight in enumerate(weights) if weight > 0)
