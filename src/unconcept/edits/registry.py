"""The registry of the kinds of edits, by the name in their files. A new kind registers itself; nothing else changes."""

from collections.abc import Callable
from typing import Protocol, TypeVar

from ..core.registry import Registry
from .base import Edit
from .edit_file import StoredEdit


class StoredKind(Protocol):
    """A class of edits that can be read from a file."""

    def from_stored(self, stored: StoredEdit) -> Edit:
        """Invert `save`. Raises `EditError` if something is missing or does not fit."""


edit_kinds: Registry[StoredKind] = Registry("edit kind", plugin_group="unconcept.edits")
_EditClass = TypeVar("_EditClass", bound=StoredKind)


def kind_name(edit: object) -> str:
    """Return the name under which an edit's class, or the nearest one that it inherits from, is registered."""
    names: dict[object, str] = {edit_kinds[name]: name for name in edit_kinds}
    return next(names[kind] for kind in type(edit).__mro__ if kind in names)


def edit_kind(name: str) -> Callable[[_EditClass], _EditClass]:
    """Register a class of edits under the name of its kind in files."""

    def put(kind: _EditClass) -> _EditClass:
        edit_kinds.register(name)(kind)
        return kind

    return put
