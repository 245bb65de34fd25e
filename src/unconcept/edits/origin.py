"""Builds the header of an edit: model, request, method, settings, library versions, exact figures of its effect."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version

from ..core.hashing import hash_tensors
from ..core.recipe import without_folders
from ..core.request import Request
from ..core.versions import library_versions
from ..models import ModelView
from ..models.checkpoint.model_card import base_id, read_licence
from ..models.text.text_side import text_side
from .base import Edit, EditOrigin


@dataclass(frozen=True)
class OriginMaker:
    """The call that made an edit. It builds the edit's origin when the edit is saved without one."""

    method: str
    settings: Mapping[str, object]
    model: ModelView
    request: Request

    def __call__(self, edit: Edit) -> EditOrigin:
        """Build the origin of the edit, or of an edit derived from it."""
        return origin_for(edit, self.model, self.request, self.method, dict(self.settings))


def origin_for(
    edit: Edit,
    model: ModelView,
    request: Request,
    method: str,
    settings: dict[str, object],
    figures: Mapping[str, float] | None = None,
) -> EditOrigin:
    """Build the header of an edit; `figures` come from the solve or training that made it."""
    return EditOrigin(
        method=method,
        settings=without_folders(settings),
        targets=request.targets,
        anchors=request.anchors,
        retain=request.retain,
        kind=request.kind,
        family=model.family,
        base=base_id(model.name),
        base_hash=hash_tensors(model.reference(edit.bound_names)),
        version=version("unconcept"),
        report={**edit.effect(model, request), **(figures or {}), **edit.solve_figures},
        licence=read_licence(model.checkpoint.source),
        libraries=library_versions(),
        text_side=text_side(model),
    )
