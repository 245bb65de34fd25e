"""Measures how far a ledger's state is from the base, in weights and in outputs of the text maps.

Exact, without a picture.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..edits import Edit
from ..edits.edit_figures import ReadingChange
from ..models import ModelView
from ..models.text.state_cache import deterministic_text_states
from ..models.text.state_rows import embed_together
from .fold import fold_requests, merged_request, stored_text_states
from .ledger import Ledger


@dataclass(frozen=True)
class TextDrift:
    """Drift of one retained text: relative change of the text maps' output, and the most similar target."""

    text: str
    share: float
    nearest: str
    cosine: float


@dataclass(frozen=True)
class StateDrift:
    """Drift of the present state.

    `total` and `layers`: |W' - W| / |W|. `function`: |(W' - W) E| / |W E| over all retained texts E.
    """

    total: float
    layers: dict[str, float]
    function: float | None
    retained: tuple[TextDrift, ...]  # largest drift first
    targets: dict[str, float]  # residual by target, 0: reads as the anchor, 1: as before

    def data(self) -> dict[str, Any]:
        return {**vars(self), "retained": [vars(one) for one in self.retained]}


@torch.no_grad()
def measure_drift(ledger: Ledger, model: ModelView, probes: Sequence[str] = ()) -> StateDrift:
    """Measure the drift of all requests in force, on their retained texts or on `probes`."""
    active = ledger.request_states.active
    edit = fold_requests(ledger, model).edit
    total, layers = weight_change(model, edit)
    asked = merged_request(active, ledger.text_key(model)) if active else None
    kept = tuple(probes) or (asked.retain if asked else ())
    read = _readings(ledger, model, edit, kept, asked.targets if asked else (), asked.anchors if asked else ())
    return StateDrift(total, layers, *read)


@torch.no_grad()
def weight_change(model: ModelView, edit: Edit) -> tuple[float, dict[str, float]]:
    """Relative change |W' - W| / |W| of all weights that an edit changes, and of each layer."""
    change = size = 0.0
    layers = {}
    for name, weight in model.reference(edit.names).items():
        own, whole = float(edit.delta(name, weight).double().square().sum()), float(weight.double().square().sum())
        change, size, layers[name] = change + own, size + whole, (own / whole) ** 0.5 if whole else 0.0
    return (change / size) ** 0.5 if size else 0.0, layers


def squared_reading_changes(
    model: ModelView, e: Tensor, edit: Edit, other: Edit | None = None
) -> tuple[Tensor, Tensor]:
    """Squared lengths (n,) of how the text maps' outputs for rows e (n, d) differ between two states, or between a
    state and the base, and squared lengths (n,) of the base's outputs.

    Summed over the text maps that either state changes.
    """
    gone, size = torch.zeros(len(e)), torch.zeros(len(e))
    both = [edit] if other is None else [edit, other]
    changed = {name for one in both for name in one.names}
    for name, w in model.reference([name for name in model.text_maps() if name in changed]).items():
        own = w.to(e.device)
        deltas = [
            one.delta(name, own).float() if name in one.names else torch.zeros_like(own, dtype=torch.float32)
            for one in both
        ]
        gone += (e @ (deltas[0] if other is None else deltas[0] - deltas[1]).T).square().sum(1).cpu()
        size += (e @ own.float().T).square().sum(1).cpu()
    return gone, size


def _readings(
    ledger: Ledger, model: ModelView, edit: Edit, kept: Sequence[str], targets: Sequence[str], anchors: Sequence[str]
) -> tuple[float | None, tuple[TextDrift, ...], dict[str, float]]:
    """Function drift, drift of each text and residual of each target, over the text maps that the edit changes."""
    maps = dict(model.reference([name for name in model.text_maps() if name in set(edit.names)]).items())
    if not maps or not targets:
        return None, (), {}
    with deterministic_text_states(model, stored_text_states(ledger, model, ledger.request_states.active)) as fixed:
        e, c, a = (rows.float() for rows in embed_together(fixed, kept, targets, anchors))
    change = ReadingChange(c, a, e)
    for name, w in maps.items():
        w = w.to(e.device)
        change.add(w.float(), edit.delta(name, w).float())
    shares, residuals = change.drifts(len(kept)), change.residuals(len(targets))
    flat = [torch.nn.functional.normalize(rows.reshape(-1, model.streams * rows.shape[1])) for rows in (e, c)]
    alike = flat[0] @ flat[1].T
    nearest = alike.argmax(1).tolist()
    rows = [
        TextDrift(text, float(shares[i]), targets[nearest[i]], float(alike[i, nearest[i]]))
        for i, text in enumerate(kept)
    ]
    function = float((change.moved.sum() / change.size.sum()).sqrt()) if len(e) else None
    return (
        function,
        tuple(sorted(rows, key=lambda one: (-one.share, one.text))),
        dict(zip(targets, residuals.tolist(), strict=True)),
    )
