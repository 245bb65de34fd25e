"""Does what was erased come back? A fixed small fine-tune on pictures without it, then the same questions again, beside
the entries.

And does the ledger help then? Its requests are folded once more on the fine-tuned model. Looking is not the ledger's: a
`ResurgenceProbe` draws, fine-tunes and judges, and is given by whoever calls.
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
from .ledger import EntryNote, Ledger
from .refold import refold_on_current_weights

RefoldContext = Callable[[], AbstractContextManager[None]]


class ResurgenceProbe(Protocol):
    """Fine-tune and ask."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """Plain data: what is done, so that two audits can be compared."""

    def __call__(
        self, model: ModelView, edit: ApplicableEdit, concept: str, erased: Sequence[str], refold: RefoldContext | None
    ) -> dict[str, int | None]:
        """How many of the same `pictures` show the concept: `unedited`, `edited`, `tuned`, and
        `refold_on_current_weights` where that can be.

        Nothing of `erased` may be among what the fine-tune is shown. Inside `refold()`, entered while the fine-tuned
        weights are on, the ledger's requests are in force on them.
        """


def audit_requests(
    ledger: Ledger, model: ModelView, look: ResurgenceProbe, note: EntryNote, start: str | None = None
) -> dict[str, dict[str, Any]]:
    """Of every request in force, or of one; each is written down when it is known, and what is written is not looked
    for again.

    By id, what was found.
    """
    active = ledger.request_states.active
    wanted = active if start is None else [ledger.request_states.find(start)]
    require(bool(wanted), "nothing is in force: there is nothing to audit", LedgerError)
    require(
        wanted[0].state == "active", f"request {wanted[0].id[:8]} was revoked: there is nothing to audit", LedgerError
    )
    state, erased, found = fold_requests(ledger, model), merged_request(active).targets, {}
    # What runs beside the model is on all the while, and no fine-tune of weights takes it off.
    refold = (
        None
        if all(changes_no_weight(one.content.method) for one in active)
        else partial(refold_on_current_weights, ledger, model)
    )
    for one in wanted:
        known = _known(ledger, one.id, state.hash, look)
        if known is not None:
            found[one.id] = known
            continue
        shown = {concept: look(model, state, concept, erased, refold) for concept in one.content.concepts}
        told = {concept: {**counts, "came_back": resurgence_share(counts)} for concept, counts in shown.items()}
        found[one.id] = {"state": state.hash, "look": dict(look.settings), "concepts": told}
        with ledger.write_lock():
            ledger.append("audit", note, requests=[one.id], found=found[one.id])
    return found


def _known(ledger: Ledger, id_: str, state: str, look: ResurgenceProbe) -> dict[str, Any] | None:
    """What an earlier audit found by the same look at the same state."""
    audits = (body for body in ledger.entry_log.bodies if body["op"] == "audit" and id_ in body["requests"])
    same: list[dict[str, Any]] = [
        body["found"]
        for body in audits
        if (body["found"]["state"], body["found"]["look"]) == (state, dict(look.settings))
    ]
    return same[-1] if same else None


def resurgence_share(counts: Mapping[str, int | None]) -> str | None:
    """Of what the edit took away, the share that the fine-tune brought back, as a decimal text; None where it took
    nothing away.
    """
    unedited, edited, tuned = (counts[name] or 0 for name in ("unedited", "edited", "tuned"))
    return f"{(tuned - edited) / (unedited - edited):.3f}" if unedited > edited else None
