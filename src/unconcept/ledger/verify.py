"""Verifies a ledger: hashes every byte, checks every id and reference, rebuilds the state.

A head that was written down elsewhere shows whether the ledger was rolled back.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from ..core.errors import LedgerError, SettingsError, UnconceptError, require
from ..models import ModelView
from .fold import fold_requests
from .forget import QUARANTINE_FOLDER, unfinished_parts
from .ledger import Ledger, request_set_hash
from .policy import LedgerPolicy
from .storage.artifacts import ARTIFACTS_FOLDER, Artifacts, artifact_names
from .storage.disk import ledger_read_errors
from .storage.entry_log import ENTRIES_FILE, HEAD_FILE, EntryLog, scan_entries
from .storage.entry_schema import RequestContent
from .storage.heads import WrittenHead
from .storage.pictures import PICTURES_FOLDER, AuditPictures, sheet_names
from .storage.private_file import PRIVATE_FILE
from .storage.sealed_entries import EntryBody, forgotten_asks

_READ_ATTEMPTS = 5
_HASHED_LIBRARIES = ("unconcept", "torch", "safetensors", "tokenizers")


@dataclass(frozen=True)
class VerificationResult:
    """The result of a verification. `faults`: damage or inconsistency; `notes`: harmless but worth knowing."""

    entries: int
    artifacts: int
    faults: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    torn: bool = False
    state: str | None = None  # hash of the rebuilt state, if a model was given
    forgotten: tuple[int, ...] = ()  # asks whose text was destroyed, by number of their entry


@dataclass
class _Findings:
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    has_head: bool = True


def verify_ledger(
    folder: Path, model: ModelView | None = None, heads: Sequence[WrittenHead] = ()
) -> VerificationResult:
    """Verify everything on the disk, heads that were written down elsewhere and, with a model, the state.

    Lists every fault and changes nothing.
    """
    require(
        (folder / ENTRIES_FILE).exists(),
        f"{folder} is not a ledger: make one with `unconcept ledger init`",
        LedgerError,
    )
    told = _Findings()
    log, torn = _read(folder, told)
    whole = not told.faults  # With faults, a file may belong to an entry that is lost or cannot be read.
    _entries(log.bodies, told)
    artifacts = Artifacts(folder / ARTIFACTS_FOLDER)
    named = artifact_names(log.bodies)
    for name in sorted(named):
        if fault := artifacts.integrity_error(name):
            told.faults.append(fault)
    pictures, sheets = AuditPictures(folder / PICTURES_FOLDER), sheet_names(log.bodies)
    told.faults += [fault for name in sorted(sheets) if (fault := pictures.integrity_error(name))]
    strays = [*artifacts.unreferenced_files(named), *pictures.unreferenced_files(sheets)]
    if not told.has_head and len(told.faults) == 1:
        _lost(log, strays, told)
    elif whole:
        _left_behind(log, strays, told)
    told.faults += [fault for head in heads if (fault := head.fault(log))]
    state = None if model is None or told.faults or torn else _rebuilt(folder, model, told)
    return VerificationResult(
        len(log.chain), len(named), tuple(told.faults), tuple(told.notes), torn, state, tuple(forgotten_asks(log.chain))
    )


def _read(folder: Path, told: _Findings) -> tuple[EntryLog, bool]:
    """Read all entries with their private parts. Also returns whether the last line is torn."""
    for _ in range(_READ_ATTEMPTS):  # A `forget` of another process may come between the two files.
        log = EntryLog(folder)
        with ledger_read_errors(log.file):
            data = log.file.read_bytes()
        found, log.size = scan_entries(data), len(data)
        log.accept(found)
        faults = log.reveal()
        if not found.fault or found.torn:
            faults = faults or log.lost_entries()
        if not faults:
            break
    torn = _head(log, found.fault, found.torn, told)
    told.faults += faults
    return log, torn


def _lost(log: EntryLog, strays: Sequence[Path], told: _Findings) -> None:
    """Without a head, files that no entry names show that acknowledged entries are missing."""
    names = [path.name for path in strays] + ([f"the end of {PRIVATE_FILE}"] if log.private.tail() else [])
    if names:
        told.faults.append(
            f"{', '.join(names)} belong to no entry, and {HEAD_FILE}, which would count the entries, is missing or"
            " damaged: entries were lost"
        )


def _left_behind(log: EntryLog, strays: Sequence[Path], told: _Findings) -> None:
    """Note what a process left that was stopped."""
    count = len(strays) + bool(log.private.tail())
    if count:
        told.notes.append(
            f"{count} files belong to no entry, because a process was stopped before it wrote one: `unconcept ledger"
            f" repair` moves them to {QUARANTINE_FOLDER}"
        )
    for entry in sorted({entry for entry, _ in unfinished_parts(log)}):
        told.notes.append(
            f"entry {entry} is forgotten, but its text is still there, because a process was stopped: `unconcept ledger"
            " repair` destroys it"
        )


def _head(log: EntryLog, fault: str | None, torn: bool, told: _Findings) -> bool:
    """Compare with the head file. Returns whether the last line is torn and was not acknowledged."""
    try:
        head = log.known_head()
    except LedgerError as error:
        told.faults.append(f"{HEAD_FILE}: {error}")
        return False
    if head is None:
        told.has_head = False
        told.faults.append(
            f"{HEAD_FILE} is missing or damaged" + ("; `unconcept ledger repair` writes it again" if not fault else "")
        )
        if fault:
            told.faults.append(fault)
        return False
    if head["seq"] >= len(log.chain):
        told.faults.append(
            fault
            or f"{ENTRIES_FILE} holds {len(log.chain)} entries, {HEAD_FILE} counts {head['seq'] + 1}: some were lost"
        )
        return False
    if fault and not torn:
        told.faults.append(fault)
    if log.hash_of(head["seq"]) != head["hash"]:
        told.faults.append(f"{HEAD_FILE} does not match the entries in {ENTRIES_FILE}")
    return torn


def _entries(bodies: Sequence[EntryBody], told: _Findings) -> None:
    """Check that ids match their requests, times increase, and only asks that stand are withdrawn, then forgotten."""
    standing: dict[int, str] = {}  # asks by entry; the id of a forgotten one is unknown
    withdrawn: set[int] = set()
    before = ""
    for body in bodies:
        name = f"entry {body['seq']} ({body['op']})"
        if body["at"] < before:
            told.faults.append(f"{name} is older than the entry before it")
        before = body["at"]
        if body["op"] == "init":
            told.faults += _policy(body)
        elif body["op"] == "add":
            if "id" in body and RequestContent.of(body).id != body["id"]:
                told.faults.append(f"{name}: its id is not the hash of its request")
            if "format" not in body and body["id"] in standing.values():
                told.faults.append(f"{name}: request {body['id'][:12]} was in force already")
            standing[body["seq"]] = body.get("id", "")
        elif body["op"] == "revoke":
            asks = [body["ask"]] if "ask" in body else [ask for ask, id_ in standing.items() if id_ == body["id"]]
            if not asks or asks[0] not in standing:
                what = f"entry {asks[0]}" if asks else f"request {body['id'][:12]}"
                told.faults.append(f"{name}: {what} was not in force")
            withdrawn |= {ask for ask in asks if standing.pop(ask, None) is not None}
        elif body["op"] == "forget" and body["ask"] not in withdrawn:
            told.faults.append(f"{name}: entry {body['ask']} was not withdrawn")


def _policy(first: EntryBody) -> list[str]:
    """List what is wrong with a ledger's policy."""
    try:
        LedgerPolicy.of(first["policy"])
    except SettingsError as error:
        return [f"entry 0 (init): {error}"]
    return []


def _rebuilt(folder: Path, model: ModelView, told: _Findings) -> str | None:
    """Fold, and compare with the state that was last recorded for this set of requests."""
    try:
        ledger = Ledger.open(folder)
        state = fold_requests(ledger, model).hash
    except UnconceptError as error:
        told.faults.append(f"the state cannot be built: {error}")
        return None
    key = request_set_hash([one.id for one in ledger.request_states.active])
    written = next(
        (
            body
            for body in reversed(ledger.entry_log.bodies)
            if body["op"] == "materialize" and body.get("requests") == key
        ),
        None,
    )
    if written is not None and written["state"] != state:
        same = written["libraries"] == numeric_environment()
        line = (
            f"the state is {state[:12]}, but entry {written['seq']} recorded {written['state'][:12]}"
            " for the same requests"
        )
        (told.faults if same else told.notes).append(
            line if same else f"{line} with {written['libraries']}: the last bits differ between libraries and machines"
        )
    return state


def numeric_environment() -> dict[str, str]:
    """Library versions that the last bits of a state depend on, besides the machine."""
    return {name: version(name) for name in _HASHED_LIBRARIES}
