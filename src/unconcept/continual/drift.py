"""How far a ledger's state is from the base: of the weights, and of what texts are read as. Exact, without a picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..core.errors import LedgerError
from ..edits import Edit
from ..models import ModelView
from ..models.alone import one_by_one
from ..models.rows import read_together
from .fold import fold, joint, states_of
from .ledger import PLACE, Ledger
from .preview import Preview
from .standing import Standing


@dataclass(frozen=True)
class Moved:
    """A text: how far its reading moved relative to its size, and the erased one it is most like."""

    text: str
    share: float
    nearest: str
    cosine: float


@dataclass(frozen=True)
class Drift:
    """Of the present state. `total` and `layers`: |W' - W| / |W|. `function`: |(W' - W) E| / |W E| over all retained texts E."""

    total: float
    layers: dict[str, float]
    function: float | None
    retained: tuple[Moved, ...]  # the one that moved most first
    targets: dict[str, float]  # 0: read as the anchor, 1: as before

    def data(self) -> dict[str, Any]:
        return {**vars(self), "retained": [vars(one) for one in self.retained]}


@torch.no_grad()
def drift(ledger: Ledger, model: ModelView, probes: Sequence[str] = ()) -> Drift:
    """Of all that is in force, on its retained texts or on `probes`."""
    active = ledger.standings.active
    edit = fold(ledger, model).edit
    total, layers = moved(model, edit)
    asked = joint(active) if active else None
    kept = tuple(probes) or (asked.retain if asked else ())
    read = _readings(ledger, model, edit, kept, asked.targets if asked else (), asked.anchors if asked else ())
    return Drift(total, layers, *read)


@torch.no_grad()
def moved(model: ModelView, edit: Edit) -> tuple[float, dict[str, float]]:
    """|W' - W| / |W| of all that an edit changes, and of each layer."""
    change = size = 0.0
    layers = {}
    for name, weight in model.reference(edit.names).items():
        own, whole = float(edit.delta(name, weight).double().square().sum()), float(weight.double().square().sum())
        change, size, layers[name] = change + own, size + whole, (own / whole) ** 0.5 if whole else 0.0
    return (change / size) ** 0.5 if size else 0.0, layers


def _readings(
    ledger: Ledger, model: ModelView, edit: Edit, kept: Sequence[str], targets: Sequence[str], anchors: Sequence[str]
) -> tuple[float | None, tuple[Moved, ...], dict[str, float]]:
    """Through all text maps that the edit changes."""
    maps = dict(model.reference([name for name in model.text_maps() if name in set(edit.names)]).items())
    if not maps or not targets:
        return None, (), {}
    with one_by_one(states_of(ledger, model, ledger.standings.active)):
        e, c, a = (rows.float() for rows in read_together(model, kept, targets, anchors))
    gone, size, left, gap = (torch.zeros(len(rows)) for rows in (e, e, c, c))
    for name, w in maps.items():
        delta, wide = edit.delta(name, w.to(e.device)).float(), w.to(e.device).float()
        gone += (e @ delta.T).square().sum(1).cpu()
        size += (e @ wide.T).square().sum(1).cpu()
        gap += ((a - c) @ wide.T).square().sum(1).cpu()
        left += ((a - c) @ wide.T - c @ delta.T).square().sum(1).cpu()
    streams = model.streams
    shares = (gone / size.clamp_min(1e-30)).sqrt().view(-1, streams).amax(1)
    residuals = (left / gap.clamp_min(1e-30)).sqrt().view(-1, streams).amax(1)
    flat = [torch.nn.functional.normalize(rows.reshape(-1, streams * rows.shape[1])) for rows in (e, c)]
    alike = flat[0] @ flat[1].T
    nearest = alike.argmax(1).tolist()
    rows = [Moved(text, float(shares[i]), targets[nearest[i]], float(alike[i, nearest[i]])) for i, text in enumerate(kept)]
    function = float((gone.sum() / size.sum()).sqrt()) if len(e) else None
    return function, tuple(sorted(rows, key=lambda one: (-one.share, one.text))), dict(zip(targets, residuals.tolist(), strict=True))


@dataclass(frozen=True)
class Step:
    """One request or revocation, as it happened: |T| and how far the retained texts' states move, T the map on the text."""

    at: str
    op: str
    concepts: tuple[str, ...]
    in_force: int
    norm: float
    mean_drift: float | None
    worst_drift: float | None
    worst: str | None


@torch.no_grad()
def history(ledger: Ledger, model: ModelView) -> list[Step]:
    """UCE's state after every entry, by rank-one updates. The retained texts are those of all requests that ever were.

    `LedgerError` for ledgers without UCE: their states would have to be made again one by one.
    """
    every = [one for one in ledger.standings.known.values() if one.asked.method == "uce"]
    if not every:
        raise LedgerError("no request of uce in this ledger: a history is kept of its closed form alone; `drift` without --history tells of the present state")
    known = states_of(ledger, model, every)
    preview, steps, now = Preview.of(ledger, known), [], dict[str, Standing]()
    probes = sorted({text for one in every for text in one.asked.retain} - {text for one in every for text in one.asked.targets})
    e = torch.cat([known[PLACE, text].double() for text in probes]) if probes else None
    for body in ledger.chain.bodies:
        if body["op"] not in ("add", "revoke") or body["id"] not in {one.id for one in every}:
            continue
        one = ledger.standings.known[body["id"]]
        now = {**now, one.id: one} if body["op"] == "add" else {id_: kept for id_, kept in now.items() if id_ != one.id}
        t = preview.show([now[id_] for id_ in sorted(now)])
        shares = None if e is None else (e @ t.T).norm(dim=1) / e.norm(dim=1)
        worst = None if shares is None else int(shares.argmax())
        told = (None, None, None) if shares is None or worst is None else (float(shares.mean()), float(shares[worst]), probes[worst // model.streams])
        steps.append(Step(body["at"], body["op"], one.asked.concepts, len(now), float(t.norm()), *told))
    return steps


@torch.no_grad()
def costs(ledger: Ledger, model: ModelView) -> dict[str, tuple[str, float]]:
    """What each request of UCE in force costs: by id the retained text that it moves most, and how far, relative to its size.

    Against the state without its targets, with the same texts retained: a request that brings retained texts along does not pay for them.
    """
    active = [one for one in ledger.standings.active if one.asked.method == "uce"]
    if not active:
        return {}
    known = states_of(ledger, model, active)
    preview, asked = Preview.of(ledger, known), joint(active)
    if not asked.retain:
        return {}
    e = torch.cat([known[PLACE, text].double() for text in asked.retain])
    pairs, retain = set(zip(asked.targets, asked.anchors, strict=True)), set(asked.retain)
    whole = (e @ preview.solve(pairs, retain).T).clone()
    found = {}
    for one in active:
        others = {target for other in active if other.id != one.id for target in other.asked.targets}
        without = e @ preview.solve({(target, anchor) for target, anchor in pairs if target in others}, retain).T
        shares = (whole - without).norm(dim=1) / e.norm(dim=1)
        found[one.id] = (asked.retain[int(shares.argmax()) // model.streams], float(shares.max()))
    return found
