"""Repairs what a process left behind that was killed. What is removed is put into quarantine, never deleted."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..core.errors import LedgerError, require
from ..core.output_folder import fsync, output_errors
from .entry import utc_timestamp
from .forget import QUARANTINE_FOLDER, finish_forgetting, unfinished_parts
from .ledger import Ledger
from .storage.artifacts import artifact_names
from .storage.disk import append_durably, folder_lock, write_privately
from .storage.entry_log import ENTRIES_FILE, HEAD_FILE, EntryLog, scan_entries
from .storage.pictures import sheet_names
from .storage.private_file import PRIVATE_FILE
from .verify import VerificationResult, verify_ledger

_REMEDY = "the repair is not complete, no acknowledged entry was touched: free some space, then run it again"


def repair_ledger(folder: Path) -> list[str]:
    """Repair what a killed process left behind: a torn last line, an outdated head file, an unfinished `forget`, files
    that no entry names.

    Returns one line for each repair. `LedgerError` for any other damage: acknowledged entries are never removed.
    """
    quarantine = _Quarantine(folder)
    with folder_lock(folder):
        found = _repairable(folder)
        _repair_chain(folder, bool(found.faults), quarantine)
        ledger = Ledger.open(folder)
        _repair_beside(ledger, quarantine)
    return quarantine.done


def planned_repairs(folder: Path) -> list[str]:
    """Say what `repair_ledger` would do, and do nothing. Raises the same errors."""
    found = _repairable(folder)
    log, torn = _torn_end(folder)
    lines = [f"move {len(torn)} bytes of an incomplete line to {QUARANTINE_FOLDER}"] if torn else []
    if found.faults or log.head()["seq"] != len(log.chain) - 1:
        lines.append(f"let {HEAD_FILE} count all {len(log.chain)} entries")
    return [*lines, *found.notes]


def _repairable(folder: Path) -> VerificationResult:
    """What a verification finds; `LedgerError` for damage that cannot be repaired."""
    found = verify_ledger(folder)
    lost = [fault for fault in found.faults if not (fault.startswith(HEAD_FILE) and "writes it again" in fault)]
    require(
        not lost,
        f"ledger {folder}: {lost[0] if lost else ''}: this is not a torn last line, and cannot be repaired;"
        " restore the ledger from a copy",
        LedgerError,
    )
    return found


def _torn_end(folder: Path) -> tuple[EntryLog, bytes]:
    """The whole entries, and the bytes after them."""
    log, data = EntryLog(folder), (folder / ENTRIES_FILE).read_bytes()
    log.accept(scan_entries(data))
    require(bool(log.chain), f"ledger {folder} has no entry: delete it and begin again", LedgerError)
    return log, data[log.length :]


@dataclass
class _Quarantine:
    """Puts files and ends of files aside, and says so."""

    folder: Path
    done: list[str] = field(default_factory=list)

    def place(self, name: str) -> Path:
        """A path for something of this name."""
        aside = self.folder / QUARANTINE_FOLDER
        aside.mkdir(mode=0o700, exist_ok=True)
        return aside / f"{''.join(filter(str.isdigit, utc_timestamp()[:26]))}-{name.lstrip('.')}"

    def put_bytes(self, name: str, data: bytes, what: str) -> None:
        with output_errors(self.folder, _REMEDY):
            place = self.place(name)
            write_privately(place, data, _REMEDY)
        self.done.append(f"moved {what} to {QUARANTINE_FOLDER}/{place.name}")

    def put_file(self, path: Path) -> None:
        with output_errors(self.folder, _REMEDY):
            place = self.place(path.name)
            path.replace(place)
            fsync(place.parent)
            fsync(path.parent)
        self.done.append(f"moved {path.name}, which no entry names, to {QUARANTINE_FOLDER}/{place.name}")


def _repair_chain(folder: Path, is_headless: bool, quarantine: _Quarantine) -> None:
    """Take a torn last line off, and let the head file count all entries."""
    log, torn = _torn_end(folder)
    if torn:
        what = f"{len(torn)} bytes of an incomplete line at the end of {ENTRIES_FILE}"
        quarantine.put_bytes(f"{ENTRIES_FILE}.torn", torn, what)
        append_durably(log.file, b"", log.length, remedy=_REMEDY)
    if is_headless or log.head()["seq"] != len(log.chain) - 1:
        log.acknowledge("the repair is not complete")
        quarantine.done.append(f"{HEAD_FILE} now counts all {len(log.chain)} entries")


def _repair_beside(ledger: Ledger, quarantine: _Quarantine) -> None:
    """Finish a `forget` that was stopped, and put aside what no entry names."""
    log = ledger.entry_log
    if any(unfinished_parts(log)):
        destroyed = "{} parts, {} artifacts and {} contact sheets".format(*finish_forgetting(ledger))
        quarantine.done.append(f"destroyed {destroyed} of forgotten entries")
    tail = log.private.tail()
    if tail:
        what = f"{len(tail)} bytes that belong to no entry at the end of {PRIVATE_FILE}"
        quarantine.put_bytes(f"{PRIVATE_FILE}.tail", tail, what)
        append_durably(log.private.path, b"", log.private.length, remedy=_REMEDY)
    strays: Sequence[Path] = ledger.artifacts.unreferenced_files(artifact_names(log.bodies))
    sheets = ledger.pictures.unreferenced_files(sheet_names(log.bodies))
    for path in (*strays, *sheets, *sorted(ledger.folder.glob(".*.part"))):
        quarantine.put_file(path)
