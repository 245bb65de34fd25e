"""One file a method. Files are found by name, so adding a method edits no list."""

import importlib
import pkgutil

from ..models.vision.paired_clip import VisionTextTower, VisionTextTowers
from .registry import (
    AttributeCounter,
    Debiaser,
    Mechanism,
    Method,
    MethodInfo,
    MethodTask,
    PresenceJudge,
    VisionMethod,
    method,
    methods,
)

for _file in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_file.name}")

__all__ = [
    "AttributeCounter",
    "Debiaser",
    "Mechanism",
    "Method",
    "MethodInfo",
    "MethodTask",
    "PresenceJudge",
    "VisionMethod",
    "VisionTextTower",
    "VisionTextTowers",
    "method",
    "methods",
]
