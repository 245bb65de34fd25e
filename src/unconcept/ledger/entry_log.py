"""The append-only file of a ledger's entries, each chained to the one before by its hash.

A line is `{"body":BODY,"hash":"SHA-256 of BODY"}` with BODY canonical JSON that names the hash of the line before as
`parent`. `head.json`, replaced whole after each append, names the last acknowledged entry. Lines after it come from a
process that died before it updated the head: a complete line counts as an entry, a torn line does not, and only
`repair` removes it.
"""

import gc
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..core.errors import LedgerError, require
from ..core.output_folder import output_errors, write_atomically
from .entry_schema import schema_error

_LEDGER_FORMAT = 1
ENTRIES_FILE, HEAD_FILE, _LOCK_FILE = "entries.jsonl", "head.json", "lock"
FIRST_PARENT_HASH = "0" * 64  # parent of the first entry
LINE_PREFIX, LINE_SEPARATOR, LINE_SUFFIX = b'{"body":', b',"hash":"', b'"}'
_LINE_TAIL_LENGTH = len(LINE_SEPARATOR) + 64 + len(LINE_SUFFIX)
_LOCK_TIMEOUT = 10.0  # seconds to wait for another writer
WRITE_REMEDY = "nothing was changed: free some space, or make the folder writable"

EntryBody = dict[str, Any]


@dataclass(frozen=True)
class ScanResult:
    """The entries read from a part of the file, and the first fault."""

    bodies: tuple[EntryBody, ...] = ()
    last: str = FIRST_PARENT_HASH  # hash of the last valid line
    length: int = 0  # bytes of the valid lines
    fault: str | None = None  # what is wrong with the first invalid line
    torn: bool = False  # the invalid line is the last one, without a line break


def canonical_json(body: EntryBody) -> bytes:
    """JSON with sorted keys and no spaces, UTF-8. Without floats, which other languages print differently."""
    return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def scan_entries(data: bytes, parent: str = FIRST_PARENT_HASH, first: int = 0) -> ScanResult:
    """Read lines up to the first invalid one."""
    bodies: list[EntryBody] = []
    length = 0
    *lines, rest = data.split(b"\n")
    for line in lines:
        name = f"line {first + len(bodies) + 1} of {ENTRIES_FILE}"
        text, said = (
            line[len(LINE_PREFIX) : -_LINE_TAIL_LENGTH],
            line[-_LINE_TAIL_LENGTH + len(LINE_SEPARATOR) : -len(LINE_SUFFIX)].decode(errors="replace"),
        )
        if (
            line != LINE_PREFIX + text + LINE_SEPARATOR + said.encode() + LINE_SUFFIX
            or sha256(text).hexdigest() != said
        ):
            return ScanResult(tuple(bodies), parent, length, f"{name} was changed: it does not match its hash")
        body, wrong = _read(text)
        if wrong:
            return ScanResult(tuple(bodies), parent, length, f"{name} {wrong}")
        if (body["seq"], body["parent"]) != (first + len(bodies), parent):
            return ScanResult(
                tuple(bodies),
                parent,
                length,
                f"{name} does not follow the line before it: lines were moved, added or removed",
            )
        bodies.append(body)
        parent, length = said, length + len(line) + 1
    fault = f"line {first + len(bodies) + 1} of {ENTRIES_FILE} is torn: its writing was cut off" if rest else None
    return ScanResult(tuple(bodies), parent, length, fault, bool(rest))


def _read(text: bytes) -> tuple[EntryBody, str | None]:
    """Parse an entry; also returns what is wrong with its form, or None."""
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        body = None
    return body, schema_error(body)


@dataclass
class EntryLog:
    """The entries of one ledger. Entries that were read and verified are not read again."""

    folder: Path
    bodies: list[EntryBody] = field(default_factory=list)
    last: str = FIRST_PARENT_HASH
    length: int = 0

    @property
    def file(self) -> Path:
        return self.folder / ENTRIES_FILE

    def known_head(self) -> EntryBody | None:
        """The content of the head file; None if it is missing or damaged.

        `LedgerError` if it has another format version.
        """
        try:
            told = json.loads((self.folder / HEAD_FILE).read_bytes())
        except (OSError, ValueError):
            return None
        if not isinstance(told, dict) or [type(told.get(key)) for key in ("format", "seq", "hash")] != [int, int, str]:
            return None
        message = (
            f"ledger {self.folder} has format version {told['format']}, this library reads {_LEDGER_FORMAT}: update"
            " unconcept"
        )
        require(told["format"] == _LEDGER_FORMAT, message, LedgerError)
        return told

    def head(self) -> EntryBody:
        """The last acknowledged entry: its number and hash; `LedgerError` if the head file is missing or damaged."""
        told = self.known_head()
        if told is None:
            raise LedgerError(
                f"ledger {self.folder}: {HEAD_FILE} is missing or damaged: run `unconcept ledger verify {self.folder}`"
            )
        return told

    def hash_of(self, seq: int) -> str:
        """The hash of an entry that was read."""
        return self.last if seq == len(self.bodies) - 1 else self.bodies[seq + 1]["parent"]

    def refresh(self, torn: bool = False) -> ScanResult:
        """Read new entries.

        `LedgerError` names the first invalid line; a torn last line is tolerated if `torn`.
        """
        require(
            self.folder.is_dir() and self.file.exists(),
            f"{self.folder} is not a ledger: make one with `unconcept ledger init`",
            LedgerError,
        )
        head = self.head()
        with ledger_read_errors(self.file), self.file.open("rb") as file:
            require(
                os.fstat(file.fileno()).st_size >= self.length,
                f"ledger {self.folder}: {ENTRIES_FILE} was cut short while it was open",
                LedgerError,
            )
            file.seek(self.length)
            found = scan_entries(file.read(), self.last, len(self.bodies))
        acknowledged = 0 <= head["seq"] < len(self.bodies) + len(found.bodies)
        mend = (
            f"; no entry is lost: repair it with `unconcept ledger repair {self.folder}`"
            if found.torn and acknowledged
            else ""
        )
        require(not found.fault or (torn and bool(mend)), f"ledger {self.folder}: {found.fault}{mend}", LedgerError)
        require(
            acknowledged,
            f"ledger {self.folder}: {HEAD_FILE} counts {head['seq'] + 1} entries, {ENTRIES_FILE} holds fewer: some were"
            " lost; restore the ledger from a copy",
            LedgerError,
        )
        self.bodies += found.bodies
        self.last, self.length = found.last, self.length + found.length
        require(
            self.hash_of(head["seq"]) == head["hash"],
            f"ledger {self.folder}: {HEAD_FILE} does not match the entries in {ENTRIES_FILE}: restore the ledger"
            " from a copy",
            LedgerError,
        )
        return found

    @contextmanager
    def write_lock(self) -> Iterator[None]:
        """Hold the write lock: inside, no other process writes, and all earlier entries have been read."""
        with folder_lock(self.folder):
            self.refresh()
            yield

    def append(self, body: EntryBody) -> EntryBody:
        """Write one entry to the disk, whole or not at all. Call it inside `write_lock` only."""
        whole = {**body, "seq": len(self.bodies), "parent": self.last}
        text = canonical_json(whole)
        fault = schema_error(json.loads(text))
        assert fault is None, fault
        said = sha256(text).hexdigest()
        line = LINE_PREFIX + text + LINE_SEPARATOR + said.encode() + LINE_SUFFIX + b"\n"
        append_durably(self.file, line, self.length)
        self.bodies.append(whole)
        self.last, self.length = said, self.length + len(line)
        self.acknowledge()
        return whole

    def acknowledge(self) -> None:
        """Write the head file: it names the last entry that was read or written."""
        head = canonical_json({"format": _LEDGER_FORMAT, "seq": len(self.bodies) - 1, "hash": self.last}) + b"\n"
        write_atomically(self.folder / HEAD_FILE, head, WRITE_REMEDY, durable=True)


@contextmanager
def gc_paused() -> Iterator[None]:
    """Inside, Python's garbage collector is off: a long ledger is many live objects, and scanning them for garbage
    takes three times as long as reading them.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; the kernel releases it if the process dies."""
    lock = FileLock(folder / _LOCK_FILE, timeout=_LOCK_TIMEOUT)
    with output_errors(folder, WRITE_REMEDY):
        try:
            lock.acquire(poll_interval=0.01)
        except Timeout:
            raise LedgerError(f"ledger {folder}: another process is writing; wait for it and try again") from None
    try:
        yield
    finally:
        lock.release()


def append_durably(path: Path, data: bytes, length: int) -> None:
    """Append after the first `length` bytes and sync to the disk; an error leaves the file as it was."""
    with output_errors(path, WRITE_REMEDY):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            os.lseek(handle, length, os.SEEK_SET)
            written = 0
            while written < len(data):
                written += os.write(handle, data[written:])
            os.fsync(handle)
        except OSError:
            os.ftruncate(handle, length)
            os.fsync(handle)
            raise
        finally:
            os.close(handle)


@contextmanager
def ledger_read_errors(path: Path) -> Iterator[None]:
    """Turn an `OSError` inside into a `LedgerError`: the file exists but cannot be read."""
    try:
        yield
    except OSError as error:
        raise LedgerError(
            f"{path} cannot be read: {error.strerror or error}; make it readable, or restore the ledger from a copy"
        ) from None
