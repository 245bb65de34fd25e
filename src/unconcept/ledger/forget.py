"""Forgets a withdrawn ask: destroys who asked, why, for what and all that was made of it.

The order is: an entry that says what is forgotten, then the artifacts, then the private parts and their salts. A
process that dies in between leaves a sound ledger, which reads the parts as forgotten; the same command goes on.
"""

import shutil
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..core.errors import LedgerError, require
from ..core.output_folder import output_errors
from .ledger import EntryNote, Ledger, request_set_hash
from .request_state import Ask, RequestState
from .storage.artifacts import artifact_names
from .storage.disk import delete_durably
from .storage.entry_log import EntryLog
from .storage.pictures import sheet_names
from .storage.sealed_entries import EntryBody, forgotten_asks, reveal_body

QUARANTINE_FOLDER, TRAINING_FOLDER = "quarantine", "training"
_Parts = dict[int, set[str]]  # names of parts by entry


@dataclass(frozen=True)
class ForgetOutcome:
    """What was destroyed, and what may hold the same texts and was left."""

    entry: int
    parts: int
    artifacts: int
    pictures: int
    """Contact sheets of audits."""
    left: tuple[str, ...] = ()
    """Files that belong to no entry: what `repair` put aside, or what a killed process left."""


def forget_ask(ledger: Ledger, entry: int, note: EntryNote) -> ForgetOutcome:
    """Destroy the ask in this `add` entry. When this returns, the ledger's files hold no trace of it.

    If it was the last ask for its request, what audits found of the request, their pictures, states with it, pictures
    of these and edits trained with it go too.
    """
    with ledger.write_lock():
        log = ledger.entry_log
        gone = parts_to_forget(ledger, entry)
        if "what" not in log.forgotten.get(entry, ()):
            forgets = {str(seq): sorted(gone[seq]) for seq in sorted(gone)}
            ledger.append("forget", note, ask=entry, forgets=forgets)
        destroyed = finish_forgetting(ledger)
    return ForgetOutcome(entry, *destroyed, tuple(_left(ledger)))


def parts_to_forget(ledger: Ledger, entry: int) -> Mapping[int, set[str]]:
    """The private parts by entry that forgetting the ask in this entry destroys; `LedgerError` if it cannot be."""
    log = ledger.entry_log
    message = f"the ledger has entries 0 to {len(log.chain) - 1}, not {entry}: `unconcept ledger status` lists asks"
    require(0 <= entry < len(log.chain), message, LedgerError)
    return {} if "what" in log.forgotten.get(entry, ()) else _parts_of(ledger, *_forgettable(ledger, entry))


def _forgettable(ledger: Ledger, entry: int) -> tuple[RequestState, Ask]:
    """The ask in this entry and its request; `LedgerError` if it cannot be forgotten."""
    body, found = ledger.entry_log.chain[entry], ledger.request_states.find_ask(entry)
    message = (
        f"entry {entry} ({body['op']}) is not an ask: give the number of one, `unconcept ledger status` lists them"
    )
    if body["op"] != "add" or found is None:
        raise LedgerError(message)
    request, ask = found
    name = f"entry {entry} ({', '.join(request.content.concepts)})"
    message = (
        f"{name} was written by version 0.1, which chained its text: to let it go, begin a new ledger with the requests"
        " in force, which gives the same bytes, and delete this one"
    )
    require("format" in body, message, LedgerError)
    message = f"{name} is in force: withdraw it first, with `unconcept ledger revoke` of {request.id[:8]}"
    require(ask.withdrawn is not None, message, LedgerError)
    return request, ask


def _parts_of(ledger: Ledger, request: RequestState, ask: Ask) -> _Parts:
    """All private parts that tell of an ask."""
    assert ask.withdrawn is not None
    gone: _Parts = defaultdict(set)
    is_last = sum(other.made.id == ask.made.id for other in request.asks) == 1
    chain, bodies = ledger.entry_log.chain, ledger.entry_log.bodies
    # Those of asks that are forgotten already too: what was kept then because another ask stood may go now.
    spans = _spans(chain, {ask.entry, *forgotten_asks(chain)})
    for seq in (ask.entry, ask.withdrawn.entry):
        gone[seq] |= chain[seq].get("sealed", {}).keys()
    for body in bodies:
        seq, sealed = body["seq"], chain[body["seq"]].get("sealed", {})
        if any(begun < seq < ended for begun, ended in spans) and body["op"] in ("materialize", "audit"):
            gone[seq] |= _states_without(ledger, body, request.content.method) & sealed.keys()
        if is_last and body["op"] == "audit" and body.get("requests") == [ask.made.id]:
            gone[seq] |= sealed.keys()
        if is_last and body["op"] == "add":
            near = (name for name in sealed if name.startswith("near "))
            gone[seq] |= {name for name in near if _names(ledger.entry_log, seq, name, ask.made.id)}
    fresh = {seq: names - ledger.entry_log.forgotten.get(seq, frozenset()) for seq, names in gone.items()}
    return {seq: names for seq, names in fresh.items() if names}


def _spans(chain: Sequence[EntryBody], asks: Collection[int]) -> list[tuple[int, int]]:
    """The entries of these asks and of their withdrawals: between them, the state held the request."""
    return [(body["ask"], body["seq"]) for body in chain if body["op"] == "revoke" and body.get("ask") in asks]


def _states_without(ledger: Ledger, body: EntryBody, method: str) -> set[str]:
    """The parts of an entry that can be looked up by guessing a set of requests, unless it is the set in force."""
    active = ledger.request_states.active
    own = request_set_hash([one.id for one in active if one.content.method == method])
    trained = body.get("trained", {}).get(method)
    gone = set() if trained is None or trained["requests"] == own else {f"trained {method}"}
    is_current = body.get("requests") == request_set_hash([one.id for one in active])
    return gone if is_current else gone | {"state"}


def _names(log: EntryLog, seq: int, part: str, id_: str) -> bool:
    stored = log.private.parts.get(seq, {}).get(part)
    return stored is not None and stored.data["id"] == id_


def finish_forgetting(ledger: Ledger) -> tuple[int, int, int]:
    """Destroy what `forget` entries name and is still there. Returns how many parts, artifacts and contact sheets.

    Call it inside `write_lock` only.
    """
    gone = list(unfinished_parts(ledger.entry_log))
    kept = artifact_names(ledger.entry_log.bodies)
    artifacts = sorted(artifact_names(_revealed(ledger.entry_log, gone)) - kept)
    remedy = "the entry is forgotten, but files of it are left: run the same command again"
    delete_durably([ledger.artifacts.folder / f"{name}.safetensors" for name in artifacts], remedy)
    sheets = ledger.pictures.delete_unreferenced(sheet_names(ledger.entry_log.bodies), remedy)
    if gone:
        ledger.entry_log.private.destroy(gone)
    ledger.artifacts.states.clear()
    with output_errors(ledger.folder, remedy):
        if (ledger.folder / TRAINING_FOLDER).exists():  # Its names and states come from requests.
            shutil.rmtree(ledger.folder / TRAINING_FOLDER)
    return len(gone), len(artifacts), sheets


def unfinished_parts(log: EntryLog) -> Iterable[tuple[int, str]]:
    """Parts that a `forget` entry names and that are still there, by entry and name."""
    for seq, names in log.forgotten.items():
        for name in sorted(names & log.private.parts.get(seq, {}).keys()):
            yield seq, name


def _revealed(log: EntryLog, gone: Iterable[tuple[int, str]]) -> Iterable[EntryBody]:
    """The entries of these parts, joined with them."""
    for seq in sorted({seq for seq, _ in gone}):
        names = log.forgotten[seq]
        yield reveal_body(log.chain[seq], {n: p for n, p in log.private.parts[seq].items() if n in names})


def _left(ledger: Ledger) -> Iterable[str]:
    """Files that no entry names, which may hold text."""
    bodies = ledger.entry_log.bodies
    strays = ledger.artifacts.unreferenced_files(artifact_names(bodies))
    strays += ledger.pictures.unreferenced_files(sheet_names(bodies))
    quarantine: Path = ledger.folder / QUARANTINE_FOLDER
    put_aside = sorted(quarantine.iterdir()) if quarantine.is_dir() else []
    return (str(path.relative_to(ledger.folder)) for path in (*strays, *put_aside, *ledger.folder.glob(".*.part")))
