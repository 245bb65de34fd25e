"""Edits: what methods return. An edit is the difference to a model, as data."""

from pathlib import Path
from weakref import WeakValueDictionary

from ..core.errors import EditError, require
from . import edit_file as files
from .adapter import AdapterEdit, BottleneckAdapter
from .applied import EditHandle
from .base import ApplicableEdit, Edit, EditOrigin, origin_of
from .gated import GatedAdapter, GatedEdit
from .guidance import GuidanceEdit
from .latent_steering import LatentSteeringEdit
from .registry import edit_kind, edit_kinds
from .residual_gate import ResidualGate, ResidualGateEdit
from .steering import SteeringEdit
from .text_map import TextMapEdit
from .weight_edits import DenseEdit, LowRankEdit

_in_use: WeakValueDictionary[tuple[str, int, int, int], Edit] = WeakValueDictionary()  # by path and state of the file


def load_edit(path: str | Path) -> Edit:
    """Read an edit file. Raises `EditError` with the fault if it cannot be used."""
    require(isinstance(path, str | Path), f"a {type(path).__name__} is no path of an edit file: give one", EditError)
    stored = files.read_edit_file(Path(path))
    try:
        return edit_kinds[stored.kind].from_stored(stored)
    except EditError as error:
        raise EditError(f"edit {path}: {error}; the file is damaged: make the edit again") from None


def open_edit(path: str | Path) -> Edit:
    """Like `load_edit`, but a file whose edit somebody in this process still holds is not read again."""
    try:
        place = Path(path).resolve()
        state = place.stat()
    except (OSError, ValueError, RuntimeError):
        return load_edit(path)  # It says what is wrong.
    key = (str(place), state.st_size, state.st_mtime_ns, state.st_ino)
    found = _in_use.get(key)
    if found is None:
        found = _in_use[key] = load_edit(path)
    return found


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
    "GuidanceEdit",
    "LatentSteeringEdit",
    "LowRankEdit",
    "ResidualGate",
    "ResidualGateEdit",
    "SteeringEdit",
    "TextMapEdit",
    "edit_kind",
    "edit_kinds",
    "load_edit",
    "open_edit",
    "origin_of",
]
