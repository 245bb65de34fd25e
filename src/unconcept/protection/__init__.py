"""Protections of pictures against personalisation, one file each. Importing the package finds the files."""

from ..core.registry import import_entries
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

import_entries(__name__)

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
