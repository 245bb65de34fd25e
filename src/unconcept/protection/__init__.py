"""Protections of pictures against personalisation, one file each. Importing the package finds the files."""

import importlib
import pkgutil

from .registry import (
    PreparationCase,
    PreparedProtection,
    Protection,
    ProtectionCase,
    ProtectionInfo,
    protect_picture,
    protection,
    protections,
)

for _file in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_file.name}")

__all__ = [
    "PreparationCase",
    "PreparedProtection",
    "Protection",
    "ProtectionCase",
    "ProtectionInfo",
    "protect_picture",
    "protection",
    "protections",
]
