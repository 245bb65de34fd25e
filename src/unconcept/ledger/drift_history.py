"""What the state was after every entry, and what each request in force costs the texts that are retained: where it is cheap, and exact."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ..core.errors import LedgerError, require
from ..edits import Edit
from ..models import ModelView
from ..models.text.state_cache import one_by_one
from .drift import changed, moved
from .entry import runs_beside
from .entry_log import Body
from .fold import fold, joint, reads_text, states_of
from .ledger import PLACE, Ledger, way_of
from .request_state import Standing
from .uce_updates import Preview

How = Literal["updates", "kept", "folds"]  # UCE's map by rank-one updates; what a sequence kept; a fold for each


@dataclass(frozen=True)
class Step:
    """One request or revocation, as it happened, and the state it left."""

    at: str
    op: str
    concepts: tuple[str, ...]
    in_force: int
    norm: float | None  # |T| of UCE's map on the text, where it is known by updates
    weights: float | None  # |W' - W| / |W| of all that is changed, where the state itself is there
    mean_drift: float | None = None  # how far retained texts move relative to their size: their states by updates, else their readings
    worst_drift: float | None = None
    worst: str | None = None


def how(ledger: Ledger, most: int | None = None) -> How:
    """How past states are had; `LedgerError` says why they cannot be, or that there are more than `most` folds to make."""
    every = _changing(ledger.standings.known.values())
    require(bool(every), "no request of this ledger ever changed a weight: there is no drift to follow", LedgerError)
    made_by = {one.asked.method for one in every}
    if ledger.policy.rule == "sequential":
        found: How = "kept"
    else:
        trained = sorted(method for method in made_by if ledger.policy.rule == "recompute" and way_of(method) == "trained")
        if (made_by == {"uce"} or (trained and "uce" in made_by)) and ledger.standings.settings["uce"]["tokens"] == "last":
            return "updates"
        message = f"{', '.join(trained)}: under the rule recompute each past state would be a training of its own; `drift` tells of the present one"
        require(not trained, message, LedgerError)
        found = "folds"
    count = len(_bodies(ledger, every))
    message = f"{count} states would be built one by one: `unconcept ledger drift {ledger.folder} --history` does it"
    require(most is None or count <= most, message, LedgerError)
    return found


@torch.no_grad()
def history(ledger: Ledger, model: ModelView, most: int | None = None) -> list[Step]:
    """The state after every entry, and how far it moves the texts that any request ever retained. `LedgerError` as `how`.

    By updates, of the requests of UCE alone.
    """
    if how(ledger, most) == "updates":
        return _updated(ledger, model)
    every = _changing(ledger.standings.known.values())
    probes, e = _probes(ledger, model, every)
    steps = []
    for body, edit, count in _states(ledger, model, every):
        shares = _shares(model, e, edit)
        told = (None, None, None) if shares is None else (float(shares.mean()), float(shares.max()), probes[int(shares.argmax())])
        asked = ledger.standings.known[body["id"]].asked
        steps.append(Step(body["at"], body["op"], asked.concepts, count, None, moved(model, edit)[0], *told))
    return steps


@torch.no_grad()
def costs(ledger: Ledger, model: ModelView, most: int | None = None) -> dict[str, tuple[str, float]]:
    """By id of a request in force the retained text that it moves most, and how far, relative to its size. `LedgerError` as `how`.

    Against the state without its targets; what a closed form retains stays the same, so that a request does not pay for texts that it
    brings along. In a sequence, against the state that it found.
    """
    known = how(ledger, most)
    active = _changing(ledger.standings.active)
    if not active:
        return {}
    if known == "updates":
        return _costs_updated(ledger, model)
    found: dict[str, tuple[str, float]] = {}
    probes, e = _probes(ledger, model, active)
    if known == "kept":
        before: Edit | None = None
        for body, edit, _ in _states(ledger, model, active):
            _put(found, body["id"], probes, _shares(model, e, edit, before))
            before = edit
        return found
    whole = fold(ledger, model, active).edit
    for one in active:
        _put(found, one.id, probes, _shares(model, e, whole, fold(ledger, model, _without(active, one)).edit))
    return found


def _changing(requests: Iterable[Standing]) -> list[Standing]:
    """Those whose methods change weights."""
    return [one for one in requests if not runs_beside(one.asked.method)]


def _bodies(ledger: Ledger, requests: Sequence[Standing]) -> list[Body]:
    """Entries that put one of the requests in force, or took it back."""
    ids = {one.id for one in requests}
    return [body for body in ledger.chain.bodies if body["op"] in ("add", "revoke") and body["id"] in ids]


def _in_force(ledger: Ledger, requests: Sequence[Standing]) -> Iterator[tuple[Body, list[Standing]]]:
    """Each such entry with those of the requests that were in force after it, by id."""
    now: dict[str, Standing] = {}
    for body in _bodies(ledger, requests):
        if body["op"] == "add":
            now[body["id"]] = ledger.standings.known[body["id"]]
        else:
            del now[body["id"]]
        yield body, [now[id_] for id_ in sorted(now)]


def _states(ledger: Ledger, model: ModelView, requests: Sequence[Standing]) -> Iterator[tuple[Body, Edit, int]]:
    """Each such entry with the state that it left, and how many were in force."""
    sequence = ledger.policy.rule == "sequential"
    for body, now in _in_force(ledger, requests):
        yield body, ledger.artifacts.get_edit(body["edit"]) if sequence else fold(ledger, model, now).edit, len(now)


def _probes(ledger: Ledger, model: ModelView, requests: Sequence[Standing]) -> tuple[list[str], Tensor]:
    """Texts that some retain and none erases, and their states (n * streams, d)."""
    probes = sorted({text for one in requests for text in one.asked.retain} - {text for one in requests for text in one.asked.targets})
    with one_by_one(states_of(ledger, model, requests)):
        return probes, model.embed(probes).float()


def _shares(model: ModelView, e: Tensor, edit: Edit, other: Edit | None = None) -> Tensor | None:
    """(n,) how far each text's readings are from those of another state or the base; None where text maps do not tell it."""
    if not len(e) or reads_text(edit) or (other is not None and reads_text(other)):
        return None
    gone, size = changed(model, e, edit, other)
    return (gone / size.clamp_min(1e-30)).sqrt().view(-1, model.streams).amax(1) if size.any() else None


def _put(found: dict[str, tuple[str, float]], id_: str, probes: Sequence[str], shares: Tensor | None) -> None:
    if shares is not None:
        found[id_] = (probes[int(shares.argmax())], float(shares.max()))


def _without(active: Sequence[Standing], one: Standing) -> list[Standing]:
    """The others; those of the same closed form retain what all of them do."""
    same = [other for other in active if other.asked.method == one.asked.method]
    held, alike = joint(same), way_of(one.asked.method) == "closed-form"

    def holding(other: Standing) -> Standing:
        return replace(other, asked=replace(other.asked, retain=held.retain, withheld=held.withheld))

    return [holding(other) if alike and other in same else other for other in active if other.id != one.id]


def _updated(ledger: Ledger, model: ModelView) -> list[Step]:
    every = [one for one in ledger.standings.known.values() if one.asked.method == "uce"]
    known = states_of(ledger, model, every)
    preview, steps = Preview.of(ledger, known), []
    probes = sorted({text for one in every for text in one.asked.retain} - {text for one in every for text in one.asked.targets})
    e = torch.cat([known[PLACE, text].double() for text in probes]) if probes else None
    for body, now in _in_force(ledger, every):
        t = preview.show(now)
        shares = None if e is None else (e @ t.T).norm(dim=1) / e.norm(dim=1)
        worst = None if shares is None else int(shares.argmax())
        told = (None, None, None) if shares is None or worst is None else (float(shares.mean()), float(shares[worst]), probes[worst // model.streams])
        asked = ledger.standings.known[body["id"]].asked
        steps.append(Step(body["at"], body["op"], asked.concepts, len(now), float(t.norm()), None, *told))
    return steps


def _costs_updated(ledger: Ledger, model: ModelView) -> dict[str, tuple[str, float]]:
    active = [one for one in ledger.standings.active if one.asked.method == "uce"]
    asked = joint(active) if active else None
    if asked is None or not asked.retain:
        return {}
    known = states_of(ledger, model, active)
    preview = Preview.of(ledger, known)
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
