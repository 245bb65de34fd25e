"""One file a method. Files are found by name, so adding a method edits no list."""

import importlib
import pkgutil

from ..models.vision.paired_clip import Sight, Sights
from .registry import Debiaser, Does, Look, Method, MethodInfo, Observe, Seer, Way, method, methods

for _file in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_file.name}")

__all__ = ["Debiaser", "Does", "Look", "Method", "MethodInfo", "Observe", "Seer", "Sight", "Sights", "Way", "method", "methods"]
