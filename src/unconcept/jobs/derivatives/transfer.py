"""Takes an edit to another model of its family than the one it was made for, and measures what it does there."""

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ...core.errors import EditError, ModelError, require
from ...core.hashing import hash_tensors
from ...core.request import Request
from ...edits import Edit, origin_of
from ...edits.edit_figures import ReadingChange
from ...models import ModelView, open_model
from ...models.text.state_rows import embed_together
from ..edit_base import base_of_edits


@dataclass(frozen=True)
class TransferredEdit:
    """An edit bound to another model, with what it does to the reading of texts there and on its own base."""

    edit: Edit
    figures: dict[str, float]
    own_figures: dict[str, float]
    """The same on the model that it was made for; empty if that is not found on this machine."""

    def describe(self, model: str) -> str:
        """One line: residual and drift there, beside those of its own base."""
        told = []
        for name, value in self.figures.items():
            own = f" ({self.own_figures[name]:.3g} on its own base)" if name in self.own_figures else ""
            told.append(f"{name} {value:.3g}{own}")
        return f"on {model}: {', '.join(told)}"


def transfer_edit(edit: Edit, path: Path, model: str) -> TransferredEdit:
    """Bind an edit to another model. `EditError` if that is of another family or lacks weights that it changes."""
    moved, view = bind_edit(edit, path, model)
    figures = reading_figures(moved, view)
    beside: dict[str, float] = {}
    with suppress(EditError, ModelError):
        beside = reading_figures(edit, open_model(base_of_edits([path]), "cpu", "float32"))
    return TransferredEdit(moved.stamped(replace(origin_of(moved), report=figures)), figures, beside)


def bind_edit(edit: Edit, path: Path, model: str) -> tuple[Edit, ModelView]:
    """Bind an edit to another model, and open that. `EditError` as for `transfer_edit`."""
    view, made = open_model(model, "cpu", "float32"), origin_of(edit)
    message = (
        f"edit {path} was made for a {made.family} model, and {model} is one of {view.family}: name one of its own"
    )
    require(made.family == view.family, message, EditError)
    try:
        own = view.reference(edit.bound_names)
    except ModelError as error:
        raise EditError(f"edit {path}: {model} lacks weights that it changes: {error}") from None
    return edit.stamped(replace(made, base=view.name, base_hash=hash_tensors(own), report={})), view


def reading_figures(edit: Edit, model: ModelView) -> dict[str, float]:
    """Measure what text encoders and text maps make of the edit's texts, at last subject tokens.

    `residual` is the distance left to the anchor of the worst target, 1 if it reads as before; `drift` the relative
    change of the retained text that changes most.
    """
    made, own = origin_of(edit), reading_change(edit, model)
    found = {"residual": float(own.residuals(len(made.targets)).max())} if made.anchors else {}
    return found | ({"drift": float(own.drifts(len(made.retain)).max())} if made.retain else {})


@torch.no_grad()
def reading_change(edit: Edit, model: ModelView) -> ReadingChange:
    """Measure how the edit's texts are read with it and without it, by each of them; `EditError` on another base."""
    made = origin_of(edit)
    request = Request(made.targets, made.anchors, made.retain)
    texts = request.targets, request.anchors or request.targets, request.retain
    before = [rows.float() for rows in embed_together(model, *texts)]
    own = ReadingChange(*before)
    with edit.applied(model):
        after = [rows.float() for rows in embed_together(model, *texts)]
        for name, live in model.text_maps().items():
            own.compare(model.reference([name])[name].float(), live.detach().float(), after)
    return own
