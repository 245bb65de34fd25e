"""The attacks, one file each. Importing the package finds the files, so a new attack edits no list."""

from ..core.registry import import_entries
from .registry import (
    ACCESS_LEVELS,
    ATTACK_COSTS,
    EXAMPLE_PICTURES,
    Attack,
    AttackAttempt,
    AttackCase,
    AttackCost,
    AttackInfo,
    AttackInput,
    LadderPlace,
    attack,
    attacks,
    why_out_of_reach,
)

import_entries(__name__)

__all__ = [
    "ACCESS_LEVELS",
    "ATTACK_COSTS",
    "EXAMPLE_PICTURES",
    "Attack",
    "AttackAttempt",
    "AttackCase",
    "AttackCost",
    "AttackInfo",
    "AttackInput",
    "LadderPlace",
    "attack",
    "attacks",
    "why_out_of_reach",
]
