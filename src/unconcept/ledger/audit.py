"""Audits resurgence: does an erased concept come back after a small benign fine-tune?

Also measures whether folding the requests again on the fine-tuned model helps. The caller supplies a `ResurgenceProbe`
that fine-tunes, draws and judges; the ledger records what it finds.
"""

from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Protocol

from ..core.errors import LedgerChanged, LedgerError, require
from ..edits import ApplicableEdit
from ..models import ModelView
from ..prompts.safety import is_never_drawn, require_drawable
from ..report.contact_sheet import SheetPair, encode_sheet
from .entry import changes_no_weight
from .fold import LedgerState, fold_requests, merged_request
from .ledger import EntryNote, Ledger, partly_done
from .refold import refold_on_current_weights
from .request_state import RequestState
from .storage.pictures import sheet_names

RefoldContext = Callable[[], AbstractContextManager[None]]


class ResurgenceProbe(Protocol):
    """Fine-tunes the edited model and counts how often an erased concept shows."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """Settings as plain data, so that two audits can be compared."""

    def __call__(
        self, model: ModelView, edit: ApplicableEdit, concept: str, erased: Sequence[str], refold: RefoldContext | None
    ) -> dict[str, int | None]:
        """Count how many of the same `pictures` show the concept: `unedited`, `edited`, `tuned`, and `refolded` where
        the requests can be folded again.

        The fine-tune must not train on anything in `erased`. Inside `refold()`, entered while the fine-tuned weights
        are applied, the ledger's requests are folded on these weights.
        """


class ContactSheetSource(Protocol):
    """Draws the small pictures that an audit keeps of a request."""

    def __call__(
        self, model: ModelView, edit: ApplicableEdit, request: RequestState, erased: Sequence[str]
    ) -> Sequence[SheetPair]:
        """Pairs of pictures before and after the edit; none if pictures of this request may not be kept."""


def audit_requests(
    ledger: Ledger,
    model: ModelView,
    look: ResurgenceProbe,
    note: EntryNote,
    start: str | None = None,
    pictures: ContactSheetSource | None = None,
) -> dict[str, dict[str, Any]]:
    """Audit every request in force, or only the one whose id starts with `start`. Returns findings by id.

    Each finding becomes an entry at once; a request that was audited before in the same state is not probed again. With
    `pictures`, a contact sheet of each is kept beside the chain. What is never drawn is passed over, or refused if it
    is the one that `start` names.
    """
    wanted, active = requests_to_audit(ledger, start), ledger.request_states.active
    ids = frozenset(one.id for one in active)
    state, erased, found = fold_requests(ledger, model), merged_request(active, ledger.text_key(model)).targets, {}
    # Edits that run beside the model stay applied: a fine-tune of weights cannot remove them, so nothing is refolded.
    refold = (
        None
        if all(changes_no_weight(one.content.method) for one in active)
        else partial(refold_on_current_weights, ledger, model)
    )
    for done, one in enumerate(wanted):
        known = _known(ledger, one.id, state.hash, look)
        pairs = pictures(model, state, one, erased) if pictures and not (known and known.get("sheet")) else ()
        if known is not None and not pairs:
            found[one.id] = known
            continue
        counted = {"state": state.hash, "look": dict(look.settings)}
        told = known["concepts"] if known else _probed(look, model, state, one, erased, refold)
        found[one.id] = {**counted, "concepts": told}
        with partly_done(done, len(wanted), "findings are written"):
            _record(ledger, one.id, ids, found[one.id], encode_sheet(pairs) if pairs else None, note)
    return found


def never_drawn(requests: Sequence[RequestState]) -> list[RequestState]:
    """Those requests of which no picture may be drawn."""
    return [one for one in requests if is_never_drawn(*one.content.targets, *one.content.concepts)]


def requests_to_audit(ledger: Ledger, start: str | None = None) -> list[RequestState]:
    """The requests to audit; `LedgerError` if there is none, `RequestError` if none of them may be drawn."""
    wanted = ledger.request_states.active if start is None else [ledger.request_states.find(start)]
    require(bool(wanted), "no request is in force: there is nothing to audit; add a request first", LedgerError)
    message = f"request {wanted[0].id[:8]} was revoked: there is nothing to audit"
    require(wanted[0].state == "active", message, LedgerError)
    hidden = never_drawn(wanted)
    drawn = [one for one in wanted if one not in hidden]
    if not drawn:
        require_drawable([", ".join(hidden[0].content.concepts)], hidden[0].content.targets)
    return drawn


def _probed(
    look: ResurgenceProbe,
    model: ModelView,
    state: LedgerState,
    one: RequestState,
    erased: Sequence[str],
    refold: RefoldContext | None,
) -> dict[str, dict[str, Any]]:
    """What the probe counts for each concept of a request."""
    shown = {concept: look(model, state, concept, erased, refold) for concept in one.content.concepts}
    return {concept: {**counts, "came_back": resurgence_share(counts)} for concept, counts in shown.items()}


def _record(
    ledger: Ledger, id_: str, state: Set[str], found: dict[str, Any], sheet: bytes | None, note: EntryNote
) -> None:
    """Write a finding with its contact sheet, first the sheet: an entry names no pictures that never were.

    `LedgerChanged` if a request that is in the state, by its id, was withdrawn meanwhile: a trace of it would outlast
    that it is forgotten.
    """
    with ledger.write_lock():
        gone = state - {one.id for one in ledger.request_states.active}
        message = f"ledger {ledger.folder}: a request was withdrawn while it was audited: run the command again"
        require(not gone, message, LedgerChanged)
        if sheet is not None:
            found["sheet"] = ledger.pictures.put(sheet)
        try:
            ledger.append("audit", note, requests=[id_], found=found)
        finally:
            if sheet is not None and found["sheet"] not in sheet_names(ledger.entry_log.bodies):
                ledger.pictures.path(found["sheet"]).unlink(missing_ok=True)


def _known(ledger: Ledger, id_: str, state: str, look: ResurgenceProbe) -> dict[str, Any] | None:
    """What an earlier audit with the same probe settings found in the same state."""
    audits = (body for body in ledger.entry_log.bodies if body["op"] == "audit" and id_ in body.get("requests", ()))
    same: list[dict[str, Any]] = [
        body["found"]
        for body in audits
        if (body["found"].get("state"), body["found"]["look"]) == (state, dict(look.settings))
    ]
    return same[-1] if same else None


def resurgence_share(counts: Mapping[str, int | None]) -> str | None:
    """The share of the edit's effect that the fine-tune undid, as a decimal text; None if the edit had no effect."""
    unedited, edited, tuned = (counts[name] or 0 for name in ("unedited", "edited", "tuned"))
    return f"{(tuned - edited) / (unedited - edited):.3f}" if unedited > edited else None
