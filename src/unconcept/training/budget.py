"""The budget of a training by the number of its targets: one rule for all trained methods.

The papers' budgets are for one concept. ESD gives 1000 steps to four words for nudity, as to one name; we take such
four for what one budget serves. MACE, Sculpting Memory and SPM begin a budget of its own for each further concept, so
beyond four targets ours grows in proportion. A style of `moji` is eighteen targets, its names in captions; an object is
three.
"""

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
