"""Edits that stay on a model until they are removed."""

from contextlib import ExitStack
from weakref import WeakKeyDictionary

from torch import nn

from ..models import ModelView, open_model
from ..models.checkpoint.pipeline import Pipeline
from .base import Edit
from .weights import base_note

_handles: WeakKeyDictionary[nn.Module, list["EditHandle"]] = WeakKeyDictionary()  # by denoiser, in order of application


class EditHandle:
    """An edit that is applied to a model. Edits may be removed in any order; without any, the weights are as before."""

    def __init__(self, edit: Edit, target: ModelView | Pipeline) -> None:
        """Apply the edit to a view or a diffusers pipeline in memory."""
        model = target if hasattr(target, "original_weights") else open_model(target, may_be_fixed=True)
        self.edit, self.denoiser, self.model = edit, model.modules("denoiser"), model
        self._stack = ExitStack()
        others = _handles.get(self.denoiser)
        if others:
            self.model = others[0].model  # It knows the weights from before the other edits.
        self.note = base_note(edit, self.model)
        self._apply()
        _handles.setdefault(self.denoiser, []).append(self)

    @property
    def is_applied(self) -> bool:
        """Whether the edit is applied."""
        return self in _handles.get(self.denoiser, [])

    def remove(self) -> None:
        """Remove the edit. Later ones stay applied; a second call does nothing."""
        if not self.is_applied:
            return
        handles = _handles[self.denoiser]
        later = handles[handles.index(self) + 1 :]
        for handle in [*reversed(later), self]:  # Each restores the values from before it.
            handle._stack.close()
        handles.remove(self)
        for handle in later:
            handle._apply()
        if not handles:
            del _handles[self.denoiser]

    def _apply(self) -> None:
        self._stack.enter_context(self.edit.applied(self.model))

    def __repr__(self) -> str:
        noted = f"; {self.note}" if self.note else ""
        place = "on" if self.is_applied else "removed from"
        return f"EditHandle({self.edit.describe()}, {place} {self.model.name}{noted})"
