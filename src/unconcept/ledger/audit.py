"""Audits resurgence: does an erased concept come back after a small benign fine-tune?

Also measures whether folding the requests again on the fine-tuned model helps. The caller supplies a `ResurgenceProbe`
that fine-tunes, draws and judges; the ledger records what it finds.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Protocol

from ..core.errors import LedgerError, require
from ..edits import ApplicableEdit
from ..models import ModelView
from .entry import changes_no_weight
from .fold import fold_requests, merged_request
from .ledger import EntryNote, Ledger, partly_done
from .refold import refold_on_current_weights

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


def audit_requests(
    ledger: Ledger, model: ModelView, look: ResurgenceProbe, note: EntryNote, start: str | None = None
) -> dict[str, dict[str, Any]]:
    """Audit every request in force, or only the one whose id starts with `start`. Returns findings by id.

    Each finding becomes an entry at once; a request that was audited before in the same state is not probed again.
    """
    active = ledger.request_states.active
    wanted = active if start is None else [ledger.request_states.find(start)]
    require(bool(wanted), "no request is in force: there is nothing to audit; add a request first", LedgerError)
    require(
        wanted[0].state == "active", f"request {wanted[0].id[:8]} was revoked: there is nothing to audit", LedgerError
    )
    state, erased, found = fold_requests(ledger, model), merged_request(active, ledger.text_key(model)).targets, {}
    # Edits that run beside the model stay applied: a fine-tune of weights cannot remove them, so nothing is refolded.
    refold = (
        None
        if all(changes_no_weight(one.content.method) for one in active)
        else partial(refold_on_current_weights, ledger, model)
    )
    for done, one in enumerate(wanted):
        known = _known(ledger, one.id, state.hash, look)
        if known is not None:
            found[one.id] = known
            continue
        shown = {concept: look(model, state, concept, erased, refold) for concept in one.content.concepts}
        told = {concept: {**counts, "came_back": resurgence_share(counts)} for concept, counts in shown.items()}
        found[one.id] = {"state": state.hash, "look": dict(look.settings), "concepts": told}
        with partly_done(done, len(wanted), "findings are written"), ledger.write_lock():
            ledger.append("audit", note, requests=[one.id], found=found[one.id])
    return found


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
