"""Lists the audits of a ledger for its page, the newest first: rates, the state they were taken in, and pictures."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..core.concept import ConceptKind
from ..core.errors import DataError
from ..metrics.intervals import Rate, wilson
from ..report.contact_sheet import SheetPair, decode_sheet
from .audit import resurgence_share
from .ledger import Ledger
from .request_state import RequestState
from .storage.heads import WrittenHead
from .storage.pictures import PICTURES_FOLDER
from .storage.sealed_entries import EntryBody

AUDIT_COUNTS = ("unedited", "edited", "tuned", "refolded")
_EXPLICIT: ConceptKind = "explicit"


@dataclass(frozen=True)
class AuditedConcept:
    """How often one concept was drawn."""

    name: str
    rates: tuple[Rate | None, ...]
    """By `AUDIT_COUNTS`; None where it was not counted."""
    came_back: str | None
    """Share of the edit's effect that the fine-tune undid, as a decimal text."""


@dataclass(frozen=True)
class AuditView:
    """One audit of one request."""

    entry: int
    at: str
    by: str
    id: str
    request: RequestState | None
    """None if the ledger does not know the request."""
    head: WrittenHead
    """The head of the chain with this audit."""
    state: str | None
    """Hash of the audited state; None if it was forgotten."""
    releases: tuple[str, ...]
    """When this state was materialized."""
    look: Mapping[str, Any]
    concepts: tuple[AuditedConcept, ...]
    pairs: tuple[SheetPair, ...]
    pictures_told: str
    """Why no pictures are shown; empty if they are."""


def audit_history(ledger: Ledger, most_sheets: int) -> list[AuditView]:
    """All audits whose findings are not forgotten, the newest first; the newest `most_sheets` have their pictures."""
    bodies = ledger.entry_log.bodies
    found = [body for body in reversed(bodies) if body["op"] == "audit" and "found" in body]
    released: dict[str, list[str]] = {}
    for body in bodies:
        if body["op"] == "materialize" and body.get("state"):
            released.setdefault(body["state"], []).append(body["at"])
    return [_view(ledger, body, released, number < most_sheets) for number, body in enumerate(found)]


def _view(ledger: Ledger, body: EntryBody, released: Mapping[str, list[str]], is_shown: bool) -> AuditView:
    seq, found = body["seq"], body["found"]
    id_ = next(iter(body["requests"]), "")
    request, state = ledger.request_states.get(id_), found.get("state")
    pairs, told = _pictures(ledger, found, request, is_shown)
    return AuditView(
        entry=seq,
        at=body["at"],
        by=body["by"],
        id=id_,
        request=request,
        head=WrittenHead(seq + 1, ledger.entry_log.hash_of(seq)),
        state=state,
        releases=tuple(released.get(state, ())) if state else (),
        look=found["look"],
        concepts=tuple(_concepts(found["concepts"])),
        pairs=tuple(pairs),
        pictures_told=told,
    )


def _concepts(found: Mapping[str, Mapping[str, Any]]) -> Iterator[AuditedConcept]:
    for name, counts in found.items():
        rates = tuple(_rate(counts.get(which), counts.get("pictures")) for which in AUDIT_COUNTS)
        came_back = None if None in rates[:3] else resurgence_share(counts)
        yield AuditedConcept(name, rates, came_back)


def _rate(hits: object, pictures: object) -> Rate | None:
    if not isinstance(hits, int) or not isinstance(pictures, int) or not 0 <= hits <= pictures or pictures == 0:
        return None
    return wilson(hits, pictures)


def _pictures(
    ledger: Ledger, found: Mapping[str, Any], request: RequestState | None, is_shown: bool
) -> tuple[list[SheetPair], str]:
    """The pictures of an audit, or why there are none."""
    name = found.get("sheet")
    if not name:
        is_explicit = request is not None and request.content.kind == _EXPLICIT
        why = "; those of an explicit concept stay with --store-pictures only" if is_explicit else ""
        return [], f"This audit kept no pictures{why}."
    if ledger.pictures.integrity_error(name) is not None:
        return [], "Its pictures were changed since they were kept: they are not shown."
    data = ledger.pictures.get(name)
    if data is None:
        return [], "Its pictures were deleted."
    if not is_shown:
        return [], f"Its pictures are in {PICTURES_FOLDER}/{ledger.pictures.path(name).name}."
    try:
        return decode_sheet(data), ""
    except DataError as error:
        return [], f"Its pictures cannot be read: {error}."
