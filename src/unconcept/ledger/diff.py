"""Compares two ledgers, or two releases of `materialize`: whoever holds two releases can do the same."""

from pathlib import Path
from typing import Any

import torch

from ..core.errors import LedgerError
from ..edits import DenseEdit, Edit, TextMapEdit, load_edit
from ..linalg.low_rank import numerical_rank
from .ledger import Ledger
from .materialize import EDIT_FILE


def compare_ledgers(first: Ledger, second: Ledger) -> dict[str, Any]:
    """Compare requests in force, base, family, policy and settings of two ledgers.

    Ledgers with the same base, requests and policy have the same state.
    """
    active = [_active_data(first), _active_data(second)]
    apart = {}
    for name in ("base", "family", "policy"):
        if first.first[name] != second.first[name]:
            apart[name] = [first.first[name], second.first[name]]
    ours, theirs = first.request_states.settings, second.request_states.settings
    for method in sorted(ours.keys() & theirs.keys()):
        if dict(ours[method]) != dict(theirs[method]):
            apart[f"settings of {method}"] = [dict(ours[method]), dict(theirs[method])]
    return {
        "same": not apart and active[0].keys() == active[1].keys(),
        "only_first": [active[0][id_] for id_ in sorted(active[0].keys() - active[1].keys())],
        "only_second": [active[1][id_] for id_ in sorted(active[1].keys() - active[0].keys())],
        "both": len(active[0].keys() & active[1].keys()),
        "apart": apart,
    }


def _active_data(ledger: Ledger) -> dict[str, dict[str, Any]]:
    return {one.id: one.data() for one in ledger.request_states.active}


def is_release(folder: Path) -> bool:
    """Whether `materialize` may have written this folder."""
    return (folder / EDIT_FILE).is_file()


def compare_releases(first: Path, second: Path) -> dict[str, Any]:
    """Compare the edits of two releases, by the ids in their headers and by their tensors. Needs no model.

    `difference` is |D - D'| / |D| over their changes D and D', of one text map for all layers or of each weight;
    `directions` is the rank of the difference of two text maps.
    """
    edit, other = load_edit(first / EDIT_FILE), load_edit(second / EDIT_FILE)
    ids = [set(one.origin.settings.get("requests", ())) if one.origin else set[str]() for one in (edit, other)]
    rank: int | None = None
    if isinstance(edit, TextMapEdit) and isinstance(other, TextMapEdit):
        moved, size, rank = _map_difference(edit, other)
    else:
        moved, size = _weight_difference(edit, other)
    return {
        "same": edit.hash == other.hash,
        "only_first": sorted(ids[0] - ids[1]),
        "only_second": sorted(ids[1] - ids[0]),
        "both": len(ids[0] & ids[1]),
        "difference": moved / size if size else None,
        "directions": rank,
    }


def _map_difference(first: TextMapEdit, second: TextMapEdit) -> tuple[float, float, int]:
    """|T - T'|, |T| and the rank of T - T', without forming a map."""
    up = torch.cat([first.x, -second.x]).double()
    down = torch.cat([first.y, second.y]).double()
    sizes = [((x @ x.T) * (y @ y.T)).sum().clamp_min(0) ** 0.5 for x, y in ((up, down), (first.x, first.y))]
    return float(sizes[0]), float(sizes[1]), numerical_rank(up.T, down)


def _weight_difference(first: Edit, second: Edit) -> tuple[float, float]:
    """|D - D'| and |D| over all weights that either changes."""
    message = (
        f"a {type(first).__name__} and a {type(second).__name__} cannot be compared without the model: use `sample`"
    )
    if not isinstance(first, DenseEdit) or not isinstance(second, DenseEdit):
        raise LedgerError(message)
    moved = size = 0.0
    for name in first.deltas.keys() | second.deltas.keys():
        own, other = first.deltas.get(name), second.deltas.get(name)
        size += 0.0 if own is None else float(own.double().square().sum())
        apart = [delta.double() for delta in (own, other) if delta is not None]
        gap = apart[0] if len(apart) == 1 else apart[0] - apart[1]
        moved += float(gap.square().sum())
    return moved**0.5, size**0.5
