"""Edits: what methods return. An edit is the difference to a model, as data."""

from pathlib import Path

from ..core.errors import EditError, require
from . import edit_file as files
from .adapter import AdapterEdit, BottleneckAdapter
from .applied import EditHandle
from .base import ApplicableEdit, Edit, EditOrigin, origin_of
from .gated import GatedAdapter, GatedEdit
from .registry import edit_kind, edit_kinds
from .steering import SteeringEdit
from .text_map import TextMapEdit
from .weight_edits import DenseEdit, LowRankEdit


def load_edit(path: str | Path) -> Edit:
    """Read an edit file. Raises `EditError` with the fault if it cannot be used."""
    require(isinstance(path, str | Path), f"a {type(path).__name__} is no path of an edit file: give one", EditError)
    stored = files.read_edit_file(Path(path))
    try:
        return edit_kinds[stored.kind].from_stored(stored)
    except EditError as error:
        raise EditError(f"edit {path}: {error}; the file is damaged: make the edit again") from None


__all__ = [
    "AdapterEdit",
    "ApplicableEdit",
    "BottleneckAdapter",
    "DenseEdit",
    "Edit",
    "EditHandle",
    "EditOrigin",
    "GatedAdapter",
    "GatedEdit",
    "LowRankEdit",
    "SteeringEdit",
    "TextMapEdit",
    "edit_kind",
    "edit_kinds",
    "load_edit",
    "origin_of",
]
