"""Verifies a ledger: hashes every byte, checks every id and reference, rebuilds the state.

Also repairs what a process left behind when it was killed.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from ..core.errors import LedgerError, SettingsError, UnconceptError, require
from ..core.output_folder import fsync
from ..models import ModelView
from .artifacts import ARTIFACTS_FOLDER, Artifacts
from .entry_log import (
    ENTRIES_FILE,
    HEAD_FILE,
    EntryBody,
    EntryLog,
    append_durably,
    folder_lock,
    ledger_read_errors,
    scan_entries,
)
from .entry_schema import RequestContent
from .fold import fold_requests
from .ledger import Ledger, LedgerPolicy, request_set_hash

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


@dataclass
class _Findings:
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def verify_ledger(folder: Path, model: ModelView | None = None) -> VerificationResult:
    """Verify everything on the disk and, with a model, the state. Lists every fault and changes nothing."""
    require(
        (folder / ENTRIES_FILE).exists(),
        f"{folder} is not a ledger: make one with `unconcept ledger init`",
        LedgerError,
    )
    told = _Findings()
    chain = EntryLog(folder)
    with ledger_read_errors(chain.file):
        found = scan_entries(chain.file.read_bytes())
    chain.bodies, chain.last = list(found.bodies), found.last
    torn = _head(chain, found.fault, found.torn, told)
    whole = not told.faults  # With faults, a file may belong to an entry that is lost or cannot be read.
    _entries(found.bodies, told)
    artifacts = Artifacts(folder / ARTIFACTS_FOLDER)
    named = _named(found.bodies)
    for name in sorted(named):
        if fault := artifacts.integrity_error(name):
            told.faults.append(fault)
    strays = artifacts.unreferenced_files(named)
    if strays and whole:
        told.notes.append(
            f"{len(strays)} files in {ARTIFACTS_FOLDER} belong to no entry, because a process was stopped before it"
            " wrote one: `unconcept ledger repair` removes them"
        )
    state = None if model is None or told.faults or torn else _rebuilt(folder, model, told)
    return VerificationResult(len(found.bodies), len(named), tuple(told.faults), tuple(told.notes), torn, state)


def repair_ledger(folder: Path) -> list[str]:
    """Repair what a killed process left behind: a torn last line, an outdated head file, stray files.

    Returns one line for each repair. `LedgerError` for any other damage: acknowledged entries are never removed.
    """
    require(
        (folder / ENTRIES_FILE).exists(),
        f"{folder} is not a ledger: make one with `unconcept ledger init`",
        LedgerError,
    )
    done: list[str] = []
    with folder_lock(folder):
        found = verify_ledger(folder)
        lost = [fault for fault in found.faults if not (fault.startswith(HEAD_FILE) and "missing" in fault)]
        require(
            not lost,
            f"ledger {folder}: {lost[0] if lost else ''}: this is not a torn last line, and cannot be repaired;"
            " restore the ledger from a copy",
            LedgerError,
        )
        chain, data = EntryLog(folder), (folder / ENTRIES_FILE).read_bytes()
        sound = scan_entries(data)
        chain.bodies, chain.last, chain.length = list(sound.bodies), sound.last, sound.length
        require(bool(sound.bodies), f"ledger {folder} has no entry: delete it and begin again", LedgerError)
        if found.torn:
            append_durably(chain.file, b"", sound.length)
            with chain.file.open("r+b") as file:
                file.truncate(sound.length)
            fsync(chain.file)
            done.append(f"removed {len(data) - sound.length} bytes of an incomplete line at the end of {ENTRIES_FILE}")
        if found.faults or chain.head()["seq"] != len(chain.bodies) - 1:
            done.append(f"{HEAD_FILE} now counts all {len(chain.bodies)} entries")
        chain.acknowledge()
        for path in [
            *Artifacts(folder / ARTIFACTS_FOLDER).unreferenced_files(_named(sound.bodies)),
            *folder.glob(".*.part"),
        ]:
            path.unlink()
            done.append(f"removed {path.name}, which no entry names")
    return done


def _head(chain: EntryLog, fault: str | None, torn: bool, told: _Findings) -> bool:
    """Compare with the head file. Returns whether the last line is torn and was not acknowledged."""
    try:
        head = chain.known_head()
    except LedgerError as error:
        told.faults.append(f"{HEAD_FILE}: {error}")
        return False
    if head is None:
        told.faults.append(
            f"{HEAD_FILE} is missing or damaged" + ("; `unconcept ledger repair` writes it again" if not fault else "")
        )
        if fault:
            told.faults.append(fault)
        return False
    if head["seq"] >= len(chain.bodies):
        told.faults.append(
            fault
            or f"{ENTRIES_FILE} holds {len(chain.bodies)} entries, {HEAD_FILE} counts {head['seq'] + 1}: some were lost"
        )
        return False
    if fault and not torn:
        told.faults.append(fault)
    if chain.hash_of(head["seq"]) != head["hash"]:
        told.faults.append(f"{HEAD_FILE} does not match the entries in {ENTRIES_FILE}")
    return torn


def _entries(bodies: Iterable[EntryBody], told: _Findings) -> None:
    """Check that ids match their requests, times increase, and adds and revocations alternate."""
    active: dict[str, bool] = {}
    before = ""
    for body in bodies:
        name = f"entry {body['seq']} ({body['op']})"
        if body["at"] < before:
            told.faults.append(f"{name} is older than the entry before it")
        before = body["at"]
        if body["op"] == "init":
            told.faults += _policy(body)
        elif body["op"] == "add":
            if RequestContent.of(body).id != body["id"]:
                told.faults.append(f"{name}: its id is not the hash of its request")
            if active.get(body["id"]):
                told.faults.append(f"{name}: request {body['id'][:12]} was in force already")
            active[body["id"]] = True
        elif body["op"] == "revoke":
            if not active.get(body["id"]):
                told.faults.append(f"{name}: request {body['id'][:12]} was not in force")
            active[body["id"]] = False


def _policy(first: EntryBody) -> list[str]:
    """List what is wrong with a ledger's policy."""
    try:
        LedgerPolicy.of(first["policy"])
    except SettingsError as error:
        return [f"entry 0 (init): {error}"]
    return []


def _named(bodies: Iterable[EntryBody]) -> set[str]:
    """Names of all artifacts that entries refer to."""
    names: set[str] = set()
    for body in bodies:
        names |= {*body.get("artifacts", ()), *(kept["edit"] for kept in body.get("trained", {}).values())}
        if body["op"] == "add" and body["edit"]:
            names.add(body["edit"])
    return names


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
        (body for body in reversed(ledger.entry_log.bodies) if body["op"] == "materialize" and body["requests"] == key),
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
