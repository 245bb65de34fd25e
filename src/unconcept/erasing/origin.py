"""Where an edit comes from: model, request, method, settings, library versions, and exact figures of what it does."""

from collections.abc import Mapping
from importlib.metadata import version

from ..core.hashing import hash_tensors
from ..core.request import Request
from ..core.versions import library_versions
from ..edits import Edit, EditOrigin, bound_parameters
from ..models import ModelView
from ..models.checkpoint.model_card import base_id, read_licence
from .edit_figures import edit_effect


def origin_for(
    edit: Edit,
    model: ModelView,
    request: Request,
    method: str,
    settings: dict[str, object],
    figures: Mapping[str, float] | None = None,
) -> EditOrigin:
    """The header of an edit; `figures` are those of its making."""
    return EditOrigin(
        method=method,
        settings=settings,
        targets=request.targets,
        anchors=request.anchors,
        retain=request.retain,
        kind=request.kind,
        family=model.family,
        base=base_id(model.name),
        base_hash=hash_tensors(model.reference(bound_parameters(edit))),
        version=version("unconcept"),
        report={**edit_effect(edit, model, request), **(figures or {}), **edit.solve_figures},
        licence=read_licence(model.checkpoint.source),
        libraries=library_versions(),
    )
