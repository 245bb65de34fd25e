"""One file an attack. Files are found by name, so adding an attack edits no list."""

import importlib
import pkgutil

from .registry import RUNGS, Attack, AttackInfo, Attempt, Case, Input, attack, attacks

for _file in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_file.name}")

__all__ = ["RUNGS", "Attack", "AttackInfo", "Attempt", "Case", "Input", "attack", "attacks"]
