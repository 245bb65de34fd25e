"""Adds and revokes requests: the two operations that change which requests are in force."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from ..core.errors import LedgerError, require
from ..core.request import Request, merge_requests
from ..edits import Edit
from ..edits.merge import stack_edits
from ..methods import methods
from ..models import ModelView
from ..models.text.state_cache import TextStateCache, deterministic_text_states
from ..training.session import current_session, training_session
from ..training.trainables import with_pristine_weights
from .entry import method_from_settings, request_content
from .entry_schema import RequestContent
from .fold import empty_edit, state_origin, train_request
from .ledger import NEIGHBOUR_POSITION, EntryNote, Ledger, method_mechanism
from .request_state import ID_DIGITS, RequestState

_MOST_NEIGHBOURS = 8  # most neighbours that are reported
_NEIGHBOUR_COSINE = 0.95  # targets whose states have at least this cosine are reported as neighbours


@dataclass(frozen=True)
class AddOutcome:
    """The result of adding a request."""

    id: str
    came: Literal["added", "in force", "in force again"]
    near: tuple[Mapping[str, Any], ...] = ()


def add_request(
    ledger: Ledger,
    model: ModelView,
    concepts: Sequence[str],
    request: Request,
    method: str,
    settings: Mapping[str, Any] | None,
    note: EntryNote,
) -> AddOutcome:
    """Put a request in force. When this returns, it is on the disk.

    A request that is in force already changes nothing; a revoked one is in force again.
    """
    known = ledger.settings_for(method, settings)
    base = ledger.require_base(model, method_mechanism(method))
    wanted = request_content(model, concepts, request, method, known, ledger.first["base"]["encoders"])
    standing = ledger.request_states.by_id.get(wanted.id)
    if standing is not None and standing.state == "active":
        return AddOutcome(wanted.id, "in force", standing.near)
    if ledger.policy.rule == "sequential":
        return _sequential(ledger, model, wanted, base, note)
    states, edit = _made(ledger, model, wanted)
    near = _near(ledger, wanted, states)
    artifacts = _kept(ledger, wanted, states)
    name = None if edit is None else ledger.artifacts.put_edit(edit)
    return _written(ledger, wanted, base, note, artifacts=artifacts, edit=name, near=near)


def revoke_request(ledger: Ledger, start: str, note: EntryNote) -> RequestState:
    """Revoke a request, named by the beginning of its id. Its entries stay; the state no longer contains it."""
    require(
        ledger.policy.rule != "sequential",
        "a sequential ledger cannot revoke a request: later edits were made on top of earlier ones, and subtraction"
        " does not undo that; begin a ledger of rule recompute or merge and add the requests there",
        LedgerError,
    )
    with ledger.write_lock():
        found = ledger.request_states.find(start)
        message = (
            f"request {found.id[:ID_DIGITS]} ({', '.join(found.content.concepts)}) was revoked at {found.revoked}:"
            " there is nothing to revoke"
        )
        require(found.state == "active", message, LedgerError)
        ledger.append("revoke", note, id=found.id)
    return ledger.request_states.by_id[found.id]


def _written(
    ledger: Ledger,
    wanted: RequestContent,
    base: str,
    note: EntryNote,
    artifacts: Sequence[str],
    edit: str | None,
    near: Sequence[Mapping[str, Any]],
) -> AddOutcome:
    with ledger.write_lock():
        before = ledger.request_states.by_id.get(wanted.id)
        if before is not None and before.state == "active":
            return AddOutcome(wanted.id, "in force", before.near)
        _append(ledger, wanted, base, note, artifacts, edit, near)
    return AddOutcome(wanted.id, "added" if before is None else "in force again", tuple(near))


def _append(
    ledger: Ledger,
    wanted: RequestContent,
    base: str,
    note: EntryNote,
    artifacts: Sequence[str],
    edit: str | None,
    near: Sequence[Mapping[str, Any]],
) -> None:
    about = {"asked": wanted.model_dump(), "base": base, "artifacts": list(artifacts), "edit": edit, "near": list(near)}
    ledger.append("add", note, id=wanted.id, **about)


def _made(ledger: Ledger, model: ModelView, wanted: RequestContent) -> tuple[TextStateCache, Edit | None]:
    """The text states that a closed form uses, or under the rule merge the edit trained for the request alone.

    A closed form is solved once for the request alone: this records the states that it uses, and raises an error for a
    request that it cannot solve.
    """
    way = method_mechanism(wanted.method)
    if way == "closed-form":
        states: TextStateCache = {}
        with deterministic_text_states(model, states) as fixed:
            method_from_settings(methods[wanted.method], wanted.settings).erase(fixed, merge_requests([wanted.request]))
        return states, None
    if way == "trained" and ledger.policy.rule == "merge":
        edit = train_request(ledger, model, wanted, merge_requests([wanted.request]))
        return {}, edit.stamped(state_origin(ledger, model, edit, [_alone(wanted)]))
    return {}, None


def _sequential(ledger: Ledger, model: ModelView, wanted: RequestContent, base: str, note: EntryNote) -> AddOutcome:
    """Make the edit on the model with all earlier edits applied, as the literature does. Holds the write lock."""
    with ledger.write_lock():
        known = ledger.request_states.by_id
        if wanted.id in known:
            return AddOutcome(wanted.id, "in force")
        latest = next((body["edit"] for body in reversed(ledger.entry_log.bodies) if body["op"] == "add"), None)
        under = ledger.artifacts.get_edit(latest) if latest else None
        way, request = method_mechanism(wanted.method), merge_requests([wanted.request])
        pretrained = ledger.policy.teacher == "pretrained"
        with (
            (under or empty_edit(model)).applied(model),
            (
                training_session(replace(current_session(), teacher=with_pristine_weights))
                if pretrained
                else nullcontext()
            ),
        ):
            if way == "trained":
                made = train_request(ledger, model, wanted, request, _erased(ledger))
            else:
                made = method_from_settings(methods[wanted.method], wanted.settings).erase(model, request)
        with torch.no_grad():
            state = stack_edits(model, under, made)
        active = [*ledger.request_states.active, _alone(wanted)]
        name = ledger.artifacts.put_edit(state.stamped(state_origin(ledger, model, state, active)))
        _append(ledger, wanted, base, note, (), name, ())
    return AddOutcome(wanted.id, "added")


def _erased(ledger: Ledger) -> list[str]:
    """All targets in force."""
    return sorted({target for one in ledger.request_states.active for target in one.content.targets})


def _alone(wanted: RequestContent) -> RequestState:
    return RequestState(wanted.id, wanted, "active", "", "", "", "")


def _kept(ledger: Ledger, wanted: RequestContent, states: TextStateCache) -> tuple[str, ...]:
    """Store text states, retained texts in a file of their own that requests with the same retain set share."""
    own = {*wanted.targets, *wanted.anchors}
    mine = {key: rows for key, rows in states.items() if key[1] in own}
    others = {key: rows for key, rows in states.items() if key[1] not in own}
    return tuple(ledger.artifacts.put_states(part) for part in (mine, others) if part)


def _near(ledger: Ledger, wanted: RequestContent, states: TextStateCache) -> list[dict[str, Any]]:
    """List targets in force whose states are close to those of the new targets, closest first."""
    own = [text for text in wanted.targets if (NEIGHBOUR_POSITION, text) in states]
    theirs: dict[str, tuple[str, torch.Tensor]] = {}
    for one in ledger.request_states.active:
        for name in one.artifacts[:1]:  # Targets and anchors; the second file holds retained texts.
            known = ledger.artifacts.get_states(name)
            theirs |= {
                text: (one.id, known[NEIGHBOUR_POSITION, text])
                for text in one.content.targets
                if (NEIGHBOUR_POSITION, text) in known and text not in own
            }
    if not own or not theirs:
        return []
    rows = (
        torch.stack([states[NEIGHBOUR_POSITION, text].flatten() for text in own]),
        torch.stack([row.flatten() for _, row in theirs.values()]),
    )
    mine, others = (torch.nn.functional.normalize(each.to("cpu", torch.float32)) for each in rows)
    best, whose = (mine @ others.T).max(0)
    close = (best >= _NEIGHBOUR_COSINE).nonzero()[:, 0].tolist()
    texts = list(theirs)
    found = sorted(((float(best[i]), texts[i], own[int(whose[i])]) for i in close), reverse=True)
    return [
        {"id": theirs[text][0], "target": text, "to": to, "cosine": f"{cosine:.4f}"}
        for cosine, text, to in found[:_MOST_NEIGHBOURS]
    ]
