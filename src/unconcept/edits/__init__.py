"""What methods return: differences to a model, as data."""

from pathlib import Path

from ..core.errors import EditError
from ..core.registry import suggest
from . import edit_file as files
from .adapter import AdapterEdit, BottleneckAdapter
from .base import ApplicableEdit, Edit, EditOrigin, origin_of
from .gated import GatedAdapter, GatedEdit
from .runtime import RuntimeEdit, bound_parameters, static_edit
from .steering import SteeringEdit
from .text_map import TextMapEdit
from .weight_edits import DenseEdit, LowRankEdit

_EDIT_KINDS: dict[
    str,
    type[LowRankEdit] | type[DenseEdit] | type[TextMapEdit] | type[SteeringEdit] | type[AdapterEdit] | type[GatedEdit],
] = {
    "low_rank": LowRankEdit,
    "dense": DenseEdit,
    "text_map": TextMapEdit,
    "steering": SteeringEdit,
    "adapter": AdapterEdit,
    "gated": GatedEdit,
}


def load_edit(path: Path) -> Edit:
    """Read an edit file; `EditError` says what is wrong with it."""
    stored = files.read_edit_file(path)
    try:
        return suggest(stored.kind, _EDIT_KINDS, "edit kind").from_stored(stored)
    except EditError as error:
        raise EditError(f"edit {path}: {error}; the file is damaged: make the edit again") from None


__all__ = [
    "AdapterEdit",
    "ApplicableEdit",
    "BottleneckAdapter",
    "DenseEdit",
    "Edit",
    "EditOrigin",
    "GatedAdapter",
    "GatedEdit",
    "LowRankEdit",
    "RuntimeEdit",
    "SteeringEdit",
    "TextMapEdit",
    "bound_parameters",
    "load_edit",
    "origin_of",
    "static_edit",
]
