"""Verify a ledger: every byte hashed again, every id and reference checked, the state built again.

And mend what a dead process left.
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
    """`faults` are what is not as it was written; `notes` what is worth knowing and harms nothing."""

    entries: int
    artifacts: int
    faults: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    torn: bool = False
    state: str | None = None  # hash of the edit that was built, where a model was given


@dataclass
class _Findings:
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def verify_ledger(folder: Path, model: ModelView | None = None) -> VerificationResult:
    """Everything that is on the disk, and, with a model, the state of it. Every fault is named; nothing is changed."""
    require(
        (folder / ENTRIES_FILE).exists(), f"{folder} is no ledger: make one with `unconcept ledger init`", LedgerError
    )
    told = _Findings()
    chain = EntryLog(folder)
    with ledger_read_errors(chain.file):
        found = scan_entries(chain.file.read_bytes())
    chain.bodies, chain.last = list(found.bodies), found.last
    torn = _head(chain, found.fault, found.torn, told)
    whole = not told.faults  # Else files may be of entries that cannot be read, or were lost.
    _entries(found.bodies, told)
    artifacts = Artifacts(folder / ARTIFACTS_FOLDER)
    named = _named(found.bodies)
    for name in sorted(named):
        if fault := artifacts.integrity_error(name):
            told.faults.append(fault)
    strays = artifacts.unreferenced_files(named)
    if strays and whole:
        told.notes.append(
            f"{len(strays)} files in {ARTIFACTS_FOLDER} belong to no entry: a process died before it could name them;"
            " `repair_ledger` takes them away"
        )
    state = None if model is None or told.faults or torn else _rebuilt(folder, model, told)
    return VerificationResult(len(found.bodies), len(named), tuple(told.faults), tuple(told.notes), torn, state)


def repair_ledger(folder: Path) -> list[str]:
    """Mend what a process that died left behind: a torn last line, a head that is behind, stray files.

    What was done, by line.

    `LedgerError` for damage of any other kind: entries that were acknowledged are never taken out.
    """
    require(
        (folder / ENTRIES_FILE).exists(), f"{folder} is no ledger: make one with `unconcept ledger init`", LedgerError
    )
    done: list[str] = []
    with folder_lock(folder):
        found = verify_ledger(folder)
        lost = [fault for fault in found.faults if not (fault.startswith(HEAD_FILE) and "missing" in fault)]
        require(
            not lost,
            f"ledger {folder}: {lost[0] if lost else ''}: this is no torn end, and is not mended; take a copy of the"
            " ledger",
            LedgerError,
        )
        chain, data = EntryLog(folder), (folder / ENTRIES_FILE).read_bytes()
        sound = scan_entries(data)
        chain.bodies, chain.last, chain.length = list(sound.bodies), sound.last, sound.length
        require(bool(sound.bodies), f"ledger {folder} has no entry at all: delete it and begin again", LedgerError)
        if found.torn:
            append_durably(chain.file, b"", sound.length)
            with chain.file.open("r+b") as file:
                file.truncate(sound.length)
            fsync(chain.file)
            done.append(f"took {len(data) - sound.length} bytes of an unfinished line from the end of {ENTRIES_FILE}")
        if found.faults or chain.head()["seq"] != len(chain.bodies) - 1:
            done.append(f"{HEAD_FILE} now tells of all {len(chain.bodies)} entries")
        chain.acknowledge()
        for path in [
            *Artifacts(folder / ARTIFACTS_FOLDER).unreferenced_files(_named(sound.bodies)),
            *folder.glob(".*.part"),
        ]:
            path.unlink()
            done.append(f"took away {path.name}, which no entry names")
    return done


def _head(chain: EntryLog, fault: str | None, torn: bool, told: _Findings) -> bool:
    """Compare with what was acknowledged; whether the last line is torn and was not."""
    try:
        head = chain.known_head()
    except LedgerError as error:
        told.faults.append(f"{HEAD_FILE}: {error}")
        return False
    if head is None:
        told.faults.append(
            f"{HEAD_FILE} is missing or damaged" + ("; `repair_ledger` writes it anew" if not fault else "")
        )
        if fault:
            told.faults.append(fault)
        return False
    if head["seq"] >= len(chain.bodies):
        told.faults.append(
            fault
            or f"{ENTRIES_FILE} holds {len(chain.bodies)} entries, "
            f"{HEAD_FILE} tells of {head['seq'] + 1}: some were lost"
        )
        return False
    if fault and not torn:
        told.faults.append(fault)
    if chain.hash_of(head["seq"]) != head["hash"]:
        told.faults.append(f"{HEAD_FILE} is not of the entries in {ENTRIES_FILE}")
    return torn


def _entries(bodies: Iterable[EntryBody], told: _Findings) -> None:
    """Ids that are what they say, times that rise, and verbs that make sense in that order."""
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
                told.faults.append(f"{name}: its id is not the hash of what it asks")
            if active.get(body["id"]):
                told.faults.append(f"{name}: request {body['id'][:12]} was in force already")
            active[body["id"]] = True
        elif body["op"] == "revoke":
            if not active.get(body["id"]):
                told.faults.append(f"{name}: request {body['id'][:12]} was not in force")
            active[body["id"]] = False


def _policy(first: EntryBody) -> list[str]:
    """What is wrong with a ledger's policy."""
    try:
        LedgerPolicy.of(first["policy"])
    except SettingsError as error:
        return [f"entry 0 (init): {error}"]
    return []


def _named(bodies: Iterable[EntryBody]) -> set[str]:
    """Artifacts that entries name."""
    names: set[str] = set()
    for body in bodies:
        names |= {*body.get("artifacts", ()), *(kept["edit"] for kept in body.get("trained", {}).values())}
        if body["op"] == "add" and body["edit"]:
            names.add(body["edit"])
    return names


def _rebuilt(folder: Path, model: ModelView, told: _Findings) -> str | None:
    """Fold, and compare with the last time this set was written out by the same libraries."""
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
        line = f"the state is {state[:12]}, entry {written['seq']} wrote {written['state'][:12]} of the same requests"
        (told.faults if same else told.notes).append(
            line if same else f"{line} with {written['libraries']}: last bits differ between libraries and machines"
        )
    return state


def numeric_environment() -> dict[str, str]:
    """What last bits depend on, besides the machine."""
    return {name: version(name) for name in _HASHED_LIBRARIES}
