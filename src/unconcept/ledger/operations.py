"""Records asks for requests and withdraws them: the two operations that change which requests are in force."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from ..core import pinned_threads
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
from .fold import empty_edit, state_origin, train_request
from .ledger import NEIGHBOUR_POSITION, EntryNote, Ledger, method_mechanism, partly_done
from .request_state import ID_DIGITS, Ask, AskedContent, RequestState
from .storage.entry_schema import RequestContent

_MOST_NEIGHBOURS = 8  # most neighbours that are reported
_NEIGHBOUR_COSINE = 0.95  # targets whose states have at least this cosine are reported as neighbours


_Came = Literal["added", "in force", "in force again"]


@dataclass(frozen=True)
class AddOutcome:
    """The result of adding a request."""

    id: str
    came: _Came
    near: tuple[Mapping[str, Any], ...] = ()
    asks: int = 1
    """How many asks for it stand now."""


def add_request(
    ledger: Ledger,
    model: ModelView,
    concepts: Sequence[str],
    request: Request,
    method: str,
    settings: Mapping[str, Any] | None,
    note: EntryNote,
) -> AddOutcome:
    """Record that somebody asks for a request, which is then in force. When this returns, it is on the disk.

    Asking for what is in force already changes no state, but the request then stays in force until every ask is
    withdrawn.
    """
    base = ledger.require_base(model, method_mechanism(method))
    wanted = wanted_request(ledger, model, concepts, request, method, settings)
    if ledger.policy.rule == "sequential":
        return _sequential(ledger, model, wanted, base, note)
    with ledger.write_lock():
        again = _asked_again(ledger, model, wanted, note)
    if again is not None:
        return again
    states, edit = _made(ledger, model, wanted)
    near = _near(ledger, wanted, states)
    artifacts = _kept(ledger, wanted, states)
    name = None if edit is None else ledger.artifacts.put_edit(edit)
    with ledger.write_lock():
        again = _asked_again(ledger, model, wanted, note)
        if again is not None:
            return again
        ledger.artifacts.require_all(artifacts if name is None else (*artifacts, name))
        left = tuple(one for one in near if ledger.request_states.get(one["id"]))  # Not what was forgotten meanwhile.
        made = AskedContent(wanted.id, wanted, base, artifacts, name, left)
        return _append(ledger, made, ledger.same_request(model, wanted), note)


def wanted_request(
    ledger: Ledger,
    model: ModelView,
    concepts: Sequence[str],
    request: Request,
    method: str,
    settings: Mapping[str, Any] | None,
) -> RequestContent:
    """What a request asks of this ledger. `LedgerError` if the ledger has another policy for the method."""
    known = ledger.settings_for(method, settings)
    return request_content(model, concepts, request, method, known, ledger.first["base"]["encoders"])


def standing_ask(ledger: Ledger, model: ModelView, wanted: RequestContent) -> Ask | None:
    """The last ask that stands for this request in these words; None if there is none."""
    request = ledger.same_request(model, wanted)
    standing = [ask for ask in (request.standing if request else ()) if ask.made.id == wanted.id]
    return standing[-1] if standing else None


def make_request(ledger: Ledger, model: ModelView, wanted: RequestContent) -> tuple[TextStateCache, Edit | None]:
    """Make what `add_request` stores for a request: text states, and the edit if one is trained for it."""
    if ledger.policy.rule != "sequential":
        return _made(ledger, model, wanted)
    return {}, _made_on_top(ledger, model, wanted)


def revoke_request(
    ledger: Ledger, start: str, note: EntryNote, by: str | None = None, every: bool = False
) -> RequestState:
    """Withdraw asks for a request, which is named by the beginning of its id.

    A single ask is withdrawn as it is. Of several, `by` picks those of one requester, and `every` takes all; the
    request stays in force while an ask is left. Entries stay; a state no longer contains a request that nobody asks
    for.
    """
    with ledger.write_lock():
        found, asks = withdrawable_asks(ledger, start, by, every)
        for done, ask in enumerate(asks):
            with partly_done(done, len(asks), "asks are withdrawn"):
                ledger.append("revoke", replace(note, by=ask.by), ask=ask.entry)
    left = ledger.request_states.of_group(found.group)
    assert left is not None
    return left


def withdrawable_asks(
    ledger: Ledger, start: str, by: str | None = None, every: bool = False
) -> tuple[RequestState, tuple[Ask, ...]]:
    """The request and its asks to withdraw; `LedgerError` if there is none, or if it is not clear which are meant."""
    require(
        ledger.policy.rule != "sequential",
        "a sequential ledger cannot revoke a request: later edits were made on top of earlier ones, and subtraction"
        " does not undo that; begin a ledger of rule recompute or merge and add the requests there",
        LedgerError,
    )
    require(by is None or not every, "--by picks one requester and --all takes all: give one of them")
    found = ledger.request_states.find(start)
    name = f"request {found.id[:ID_DIGITS]} ({', '.join(found.content.concepts)})"
    message = f"{name} was revoked at {found.revoked}: there is nothing to revoke"
    require(found.state == "active", message, LedgerError)
    listed = "; ".join(map(str, found.standing))
    picked = tuple(ask for ask in found.standing if by is None or ask.by == by)
    require(bool(picked), f"{name} was not asked for by {by!r}, but in {listed}: name one of them", LedgerError)
    message = (
        f"{name} has {len(picked)} asks in force: {listed}; --by NAME takes back those of one requester, --all takes"
        " back all"
    )
    require(by is not None or every or len(picked) == 1, message, LedgerError)
    return found, picked


def _asked_again(ledger: Ledger, model: ModelView, wanted: RequestContent, note: EntryNote) -> AddOutcome | None:
    """Record one more ask for a request that is in force in the same words; None if there is none.

    Call it inside `write_lock` only.
    """
    standing = standing_ask(ledger, model, wanted)
    if standing is None:
        return None
    outcome = _append(ledger, replace(standing.made, near=()), ledger.same_request(model, wanted), note)
    return replace(outcome, near=standing.made.near)


def _append(ledger: Ledger, made: AskedContent, before: RequestState | None, note: EntryNote) -> AddOutcome:
    """Write an ask; `before` is the request that it joins. Call it inside `write_lock` only."""
    about = {"id": made.id, "asked": made.content.model_dump(), "base": made.base, "edit": made.edit}
    lists = {"artifacts": list(made.artifacts), "near": [dict(one) for one in made.near]}
    ledger.append("add", note, **about, **lists, joins=None if before is None else before.group)
    now = ledger.request_states.get(made.id)
    assert now is not None
    came: _Came = "added" if before is None else "in force" if before.state == "active" else "in force again"
    return AddOutcome(now.id, came, made.near, len(now.standing))


def _made(ledger: Ledger, model: ModelView, wanted: RequestContent) -> tuple[TextStateCache, Edit | None]:
    """The text states that a closed form uses, or under the rule merge the edit trained for the request alone.

    A closed form is solved once for the request alone: this records the states that it uses, and raises an error for a
    request that it cannot solve.
    """
    way = method_mechanism(wanted.method)
    if way == "closed-form":
        states: TextStateCache = {}
        solver = method_from_settings(methods[wanted.method], wanted.settings)
        with deterministic_text_states(model, states) as fixed:
            solver.erase(fixed, merge_requests([wanted.request], ledger.text_key(model)))
        return states, None
    if way == "trained" and ledger.policy.rule == "merge":
        edit = train_request(ledger, model, wanted, merge_requests([wanted.request], ledger.text_key(model)))
        return {}, edit.stamped(state_origin(ledger, model, edit, [_alone(wanted)]))
    return {}, None


def _sequential(ledger: Ledger, model: ModelView, wanted: RequestContent, base: str, note: EntryNote) -> AddOutcome:
    """Make the edit on the model with all earlier edits applied, as the literature does. Holds the write lock.

    Runs on one thread, as folding does.
    """
    with ledger.write_lock(), pinned_threads(1):
        before = ledger.same_request(model, wanted)
        if before is not None:
            known = replace(before.standing[-1].made, id=wanted.id, content=wanted, near=())
            return _append(ledger, known, before, note)
        name = ledger.artifacts.put_edit(_made_on_top(ledger, model, wanted))
        return _append(ledger, AskedContent(wanted.id, wanted, base, (), name), None, note)


def _made_on_top(ledger: Ledger, model: ModelView, wanted: RequestContent) -> Edit:
    """The edit of all requests so far and of this one, made on the model with all earlier edits applied."""
    latest = ledger.request_states.changes[-1].body["edit"] if ledger.request_states.changes else None
    under = ledger.artifacts.get_edit(latest) if latest else None
    way, request = method_mechanism(wanted.method), merge_requests([wanted.request], ledger.text_key(model))
    is_pretrained = ledger.policy.teacher == "pretrained"
    taught = training_session(replace(current_session(), teacher=with_pristine_weights))
    with (under or empty_edit(model)).applied(model), taught if is_pretrained else nullcontext():
        if way == "trained":
            made = train_request(ledger, model, wanted, request, _erased(ledger))
        else:
            made = method_from_settings(methods[wanted.method], wanted.settings).erase(model, request)
    with torch.no_grad():
        state = stack_edits(model, under, made)
    active = [*ledger.request_states.active, _alone(wanted)]
    return state.stamped(state_origin(ledger, model, state, active))


def _erased(ledger: Ledger) -> list[str]:
    """All targets in force."""
    return sorted({target for one in ledger.request_states.active for target in one.content.targets})


def _alone(wanted: RequestContent) -> RequestState:
    """The request as if it were in force, though nobody asks for it yet."""
    return RequestState(wanted.id, wanted)


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
