"""The methods, one file each. Importing the package finds the files, so a new method edits no list."""

from ..core.registry import import_entries
from ..models.vision.paired_clip import VisionTextTower, VisionTextTowers
from .registry import (
    NO_SERVICES,
    AttributeCounter,
    Mechanism,
    Method,
    MethodInfo,
    MethodServices,
    MethodTask,
    PresenceJudge,
    ServiceName,
    VisionTowerLoader,
    method,
    methods,
)

import_entries(__name__)

__all__ = [
    "NO_SERVICES",
    "AttributeCounter",
    "Mechanism",
    "Method",
    "MethodInfo",
    "MethodServices",
    "MethodTask",
    "PresenceJudge",
    "ServiceName",
    "VisionTextTower",
    "VisionTextTowers",
    "VisionTowerLoader",
    "method",
    "methods",
]


def __getattr__(name: str) -> type:
    """The class of a method by its name, so that `from unconcept.methods import UCE` needs no list."""
    for known in map(methods.__getitem__, methods):
        if known.settings.__name__ == name:
            return known.settings
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
