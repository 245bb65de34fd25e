"""The attacks, one file each. Importing the package finds the files, so a new attack edits no list."""

import importlib
import pkgutil

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

for _file in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_file.name}")

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
