"""What methods return: differences to a model, as data."""

from pathlib import Path

from ..core.errors import EditError
from ..core.registry import suggest
from . import edit_file as files
from .adapter import AdapterEdit, Bottleneck
from .base import Applied, Edit, Origin, origin_of
from .gated import GatedEdit, Part
from .runtime import Running, made_for, static
from .steering import SteeringEdit
from .text_map import TextMapEdit
from .weight_edits import DenseEdit, LowRankEdit

KINDS: dict[str, type[LowRankEdit] | type[DenseEdit] | type[TextMapEdit] | type[SteeringEdit] | type[AdapterEdit] | type[GatedEdit]] = {
    "low_rank": LowRankEdit,
    "dense": DenseEdit,
    "text_map": TextMapEdit,
    "steering": SteeringEdit,
    "adapter": AdapterEdit,
    "gated": GatedEdit,
}


def load_edit(path: Path) -> Edit:
    """Read an edit file; `EditError` says what is wrong with it."""
    stored = files.read(path)
    try:
        return suggest(stored.kind, KINDS, "edit kind").from_stored(stored)
    except EditError as error:
        raise EditError(f"edit {path}: {error}; the file is damaged: make the edit again") from None


__all__ = [
    "AdapterEdit",
    "Applied",
    "Bottleneck",
    "DenseEdit",
    "Edit",
    "GatedEdit",
    "LowRankEdit",
    "Origin",
    "Part",
    "Running",
    "SteeringEdit",
    "TextMapEdit",
    "load_edit",
    "made_for",
    "origin_of",
    "static",
]
