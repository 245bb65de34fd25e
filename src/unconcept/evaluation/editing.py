"""Run a method, stamp its edit, and say exactly what the edit does to the text maps, without a picture."""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ..core.errors import SettingsError, require
from ..core.hashing import hash_tensors
from ..core.request import Request
from ..core.settings import build, dump
from ..edits import Edit, Origin
from ..methods import Method, methods
from ..models import ModelView
from .requests import Chosen


def make_edit(model: ModelView, chosen: Chosen, method: str, settings: Mapping[str, Any]) -> Edit:
    """Run a method and stamp the edit with where it comes from."""
    info = methods[method]
    hyperparameters: Method = build(info.settings, settings, f"{method} setting")
    message = f"{method} is not defined for {model.family} models, only for {', '.join(info.families)}"
    require(model.family in info.families, message, SettingsError)
    edit = hyperparameters.erase(model, chosen.request)
    return edit.stamped(_origin(edit, model, chosen.request, method, dump(hyperparameters)))


def _origin(edit: Edit, model: ModelView, request: Request, method: str, settings: dict[str, Any]) -> Origin:
    return Origin(
        method=method,
        settings=settings,
        targets=request.targets,
        anchors=request.anchors,
        retain=request.retain,
        kind=request.kind,
        family=model.family,
        base=Path(model.name).name,
        base_hash=hash_tensors(model.reference(edit.names)),
        version=version("unconcept"),
        report=effect(edit, model, request),
    )


@torch.no_grad()
def effect(edit: Edit, model: ModelView, request: Request) -> dict[str, float]:
    """Exact figures without a picture, over the text maps the edit changes, worst text of each kind.

    `residual`: how far a target is still read from its anchor, 0 = as the anchor, 1 = unchanged.
    `drift`: how far a retained text's reading moved, relative to its size. `relative_norm`: of the weights' change.
    """
    maps = {name: w for name, w in model.text_maps().items() if name in set(edit.names)}
    own = model.reference(maps)
    targets, anchors, retain = (model.embed(texts).float() for texts in (request.targets, request.anchors, request.retain))
    sums = {name: torch.zeros(n) for name, n in (("left", len(targets)), ("gap", len(targets)), ("moved", len(retain)), ("size", len(retain)))}
    change = weight = 0.0
    for name, w in maps.items():
        delta = edit.delta(name, own[name].to(targets.device)).float()
        w = w.float().to(targets.device)
        wanted = (anchors - targets) @ w.T
        sums["gap"] += wanted.square().sum(1).cpu()
        sums["left"] += (wanted - targets @ delta.T).square().sum(1).cpu()
        sums["moved"] += (retain @ delta.T).square().sum(1).cpu()
        sums["size"] += (retain @ w.T).square().sum(1).cpu()
        change, weight = change + float(delta.square().sum()), weight + float(w.square().sum())
    figures = {"relative_norm": (change / weight) ** 0.5 if weight else 0.0}
    if len(targets):
        figures["residual"] = float((sums["left"] / sums["gap"].clamp_min(1e-30)).sqrt().max())
    if len(retain):
        figures["drift"] = float((sums["moved"] / sums["size"].clamp_min(1e-30)).sqrt().max())
    return figures
