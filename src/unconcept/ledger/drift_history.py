"""Follows the drift of the state after every entry, and what each request in force costs the retained texts.

Exact; refused where it would be too expensive.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ..core.errors import LedgerError, require
from ..edits import Edit
from ..models import ModelView
from ..models.text.state_cache import deterministic_text_states
from .drift import squared_reading_changes, weight_change
from .entry import changes_no_weight
from .fold import edits_text_encoder, fold_requests, merged_request, stored_text_states
from .ledger import NEIGHBOUR_POSITION, Ledger, method_mechanism
from .request_state import RequestState, StateChange
from .uce_updates import UCEUpdates

# Where past states come from: rank-one updates of UCE's map; the edits that a sequential ledger stored; one fold each.
StateSource = Literal["updates", "kept", "folds"]


@dataclass(frozen=True)
class HistoryStep:
    """One request or revocation, and the state after it."""

    at: str
    op: str
    concepts: tuple[str, ...]
    in_force: int
    norm: float | None  # |T| of UCE's map on text states, if states come from updates
    weights: float | None  # |W' - W| / |W| of all changed weights, if the state itself is available
    mean_drift: float | None = None
    """Mean relative change of retained texts: of their states if those come from updates, else of the text maps'
    outputs."""
    worst_drift: float | None = None
    worst: str | None = None


def state_source(ledger: Ledger, most: int | None = None) -> StateSource:
    """Where past states come from; `LedgerError` if they cannot be rebuilt, or would need more than `most` folds."""
    every = _changing(ledger.request_states.by_id.values())
    message = (
        "no request of this ledger ever changed a weight, so there is no drift: add one of a method that edits weights"
    )
    require(bool(every), message, LedgerError)
    made_by = {one.content.method for one in every}
    if ledger.policy.rule == "sequential":
        found: StateSource = "kept"
    else:
        trained = sorted(
            method for method in made_by if ledger.policy.rule == "recompute" and method_mechanism(method) == "trained"
        )
        if (made_by == {"uce"} or (trained and "uce" in made_by)) and ledger.request_states.settings["uce"][
            "tokens"
        ] == "last":
            return "updates"
        message = (
            f"{', '.join(trained)}: under the rule recompute each past state would need its own training; use `drift`"
            " without history, which measures the present state"
        )
        require(not trained, message, LedgerError)
        found = "folds"
    count = len(_changes(ledger, every))
    message = (
        f"{count} states would have to be rebuilt, more than {most}: use `unconcept ledger drift` with `--history`"
    )
    require(most is None or count <= most, message, LedgerError)
    return found


@torch.no_grad()
def drift_history(ledger: Ledger, model: ModelView, most: int | None = None) -> list[HistoryStep]:
    """Follow the state after every entry: how far it moves the texts that any request ever retained.

    States from updates cover the requests of UCE only. Raises `LedgerError` as `state_source` does.
    """
    if state_source(ledger, most) == "updates":
        return _updated(ledger, model)
    every = _changing(ledger.request_states.by_id.values())
    probes, e = _probes(ledger, model, every)
    steps = []
    for change, edit, count in _states(ledger, model, every):
        shares = _shares(model, e, edit)
        told = (
            (None, None, None)
            if shares is None
            else (float(shares.mean()), float(shares.max()), probes[int(shares.argmax())])
        )
        asked = _request(ledger, change).content
        steps.append(
            HistoryStep(change.body["at"], change.op, asked.concepts, count, None, weight_change(model, edit)[0], *told)
        )
    return steps


@torch.no_grad()
def retain_costs(ledger: Ledger, model: ModelView, most: int | None = None) -> dict[str, tuple[str, float]]:
    """For each request in force, by id: the retained text that it moves most, and its relative change.

    Compared with the state without the request's targets; the retain set of a closed form stays the same, so that a
    request is not charged for texts that only it retains. In a sequential ledger, compared with the state before the
    request. Raises `LedgerError` as `state_source` does.
    """
    known = state_source(ledger, most)
    active = _changing(ledger.request_states.active)
    if not active:
        return {}
    if known == "updates":
        return _costs_updated(ledger, model)
    found: dict[str, tuple[str, float]] = {}
    probes, e = _probes(ledger, model, active)
    if known == "kept":
        before: Edit | None = None
        for change, edit, _ in _states(ledger, model, active):
            _put(found, _request(ledger, change).id, probes, _shares(model, e, edit, before))
            before = edit
        return found
    whole = fold_requests(ledger, model, active).edit
    for one in active:
        _put(found, one.id, probes, _shares(model, e, whole, fold_requests(ledger, model, _without(active, one)).edit))
    return found


def _changing(requests: Iterable[RequestState]) -> list[RequestState]:
    """The requests whose methods change weights."""
    return [one for one in requests if not changes_no_weight(one.content.method)]


def _changes(ledger: Ledger, requests: Sequence[RequestState]) -> list[StateChange]:
    """The entries with which one of the requests came into force or went out of it."""
    groups = {one.group for one in requests}
    return [change for change in ledger.request_states.changes if change.group in groups]


def _request(ledger: Ledger, change: StateChange) -> RequestState:
    found = ledger.request_states.of_group(change.group)
    assert found is not None, "a forgotten request has no changes"
    return found


def _in_force(ledger: Ledger, requests: Sequence[RequestState]) -> Iterator[tuple[StateChange, list[RequestState]]]:
    """Each of these changes with the requests that were in force after it, sorted by id."""
    known = {one.group: one for one in requests}
    now: dict[int, RequestState] = {}
    for change in _changes(ledger, requests):
        if change.op == "add":
            now[change.group] = known[change.group]
        else:
            del now[change.group]
        yield change, sorted(now.values(), key=lambda one: one.id)


def _states(
    ledger: Ledger, model: ModelView, requests: Sequence[RequestState]
) -> Iterator[tuple[StateChange, Edit, int]]:
    """Each of these changes with the state after it and the number of requests then in force."""
    sequence = ledger.policy.rule == "sequential"
    for change, now in _in_force(ledger, requests):
        yield (
            change,
            ledger.artifacts.get_edit(change.body["edit"]) if sequence else fold_requests(ledger, model, now).edit,
            len(now),
        )


def _probes(ledger: Ledger, model: ModelView, requests: Sequence[RequestState]) -> tuple[list[str], Tensor]:
    """Texts that some request retains and none erases, with their states (n * streams, d)."""
    probes = sorted(
        {text for one in requests for text in one.content.retain}
        - {text for one in requests for text in one.content.targets}
    )
    with deterministic_text_states(model, stored_text_states(ledger, model, requests)) as fixed:
        return probes, fixed.embed(probes).float()


def _shares(model: ModelView, e: Tensor, edit: Edit, other: Edit | None = None) -> Tensor | None:
    """Relative change (n,) of the text maps' output for each text, against another state or the base.

    None if the text maps cannot show it: no texts, or an edited text encoder.
    """
    if not len(e) or edits_text_encoder(edit) or (other is not None and edits_text_encoder(other)):
        return None
    gone, size = squared_reading_changes(model, e, edit, other)
    return (gone / size.clamp_min(1e-30)).sqrt().view(-1, model.streams).amax(1) if size.any() else None


def _put(found: dict[str, tuple[str, float]], id_: str, probes: Sequence[str], shares: Tensor | None) -> None:
    if shares is not None:
        found[id_] = (probes[int(shares.argmax())], float(shares.max()))


def _without(active: Sequence[RequestState], one: RequestState) -> list[RequestState]:
    """The other requests; those of the same closed form keep the retain set of all of them together."""
    same = [other for other in active if other.content.method == one.content.method]
    held, alike = merged_request(same), method_mechanism(one.content.method) == "closed-form"

    def holding(other: RequestState) -> RequestState:
        return replace(
            other, content=other.content.model_copy(update={"retain": held.retain, "withheld": held.withheld})
        )

    return [holding(other) if alike and other in same else other for other in active if other.id != one.id]


def _updated(ledger: Ledger, model: ModelView) -> list[HistoryStep]:
    every = [one for one in ledger.request_states.by_id.values() if one.content.method == "uce"]
    known = stored_text_states(ledger, model, every)
    preview, steps = UCEUpdates.of(ledger, known), []
    probes = sorted(
        {text for one in every for text in one.content.retain} - {text for one in every for text in one.content.targets}
    )
    e = torch.cat([known[NEIGHBOUR_POSITION, text].double() for text in probes]) if probes else None
    for change, now in _in_force(ledger, every):
        t = preview.update_to(now)
        shares = None if e is None else (e @ t.T).norm(dim=1) / e.norm(dim=1)
        worst = None if shares is None else int(shares.argmax())
        told = (
            (None, None, None)
            if shares is None or worst is None
            else (float(shares.mean()), float(shares[worst]), probes[worst // model.streams])
        )
        asked = _request(ledger, change).content
        at, norm = change.body["at"], float(t.norm())
        steps.append(HistoryStep(at, change.op, asked.concepts, len(now), norm, None, *told))
    return steps


def _costs_updated(ledger: Ledger, model: ModelView) -> dict[str, tuple[str, float]]:
    active = [one for one in ledger.request_states.active if one.content.method == "uce"]
    asked = merged_request(active, ledger.text_key(model)) if active else None
    if asked is None or not asked.retain:
        return {}
    known = stored_text_states(ledger, model, active)
    preview = UCEUpdates.of(ledger, known)
    e = torch.cat([known[NEIGHBOUR_POSITION, text].double() for text in asked.retain])
    pairs, retain = set(zip(asked.targets, asked.anchors, strict=True)), set(asked.retain)
    whole = (e @ preview.solve(pairs, retain).T).clone()
    found = {}
    for one in active:
        others = {target for other in active if other.id != one.id for target in other.content.targets}
        without = e @ preview.solve({(target, anchor) for target, anchor in pairs if target in others}, retain).T
        shares = (whole - without).norm(dim=1) / e.norm(dim=1)
        found[one.id] = (asked.retain[int(shares.argmax()) // model.streams], float(shares.max()))
    return found
