"""An append-only file of entries, each chained to the one before by its hash: the only thing of a ledger that grows.

A line is `{"body":BODY,"hash":"SHA-256 of BODY"}` with BODY canonical JSON that names the hash of the line before as
`parent`. `head.json`, replaced whole after each append, says how far the file was acknowledged. Lines beyond it were
written by a process that died before it could say so: a whole one counts, a torn one is no entry and is mended by
`repair` alone.
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
    """What a stretch of the file holds."""

    bodies: tuple[EntryBody, ...] = ()
    last: str = FIRST_PARENT_HASH  # hash of the last sound line
    length: int = 0  # bytes of the sound lines
    fault: str | None = None  # what is wrong with the first line that is not sound
    torn: bool = False  # that line is the last and has no end


def canonical_json(body: EntryBody) -> bytes:
    """Sorted keys, no spaces, UTF-8; no numbers with a fraction, which other languages write otherwise."""
    return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def scan_entries(data: bytes, parent: str = FIRST_PARENT_HASH, first: int = 0) -> ScanResult:
    """Read lines until one is not what was written."""
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
            return ScanResult(tuple(bodies), parent, length, f"{name} is not what was written")
        body, wrong = _read(text)
        if wrong:
            return ScanResult(tuple(bodies), parent, length, f"{name} {wrong}")
        if (body["seq"], body["parent"]) != (first + len(bodies), parent):
            return ScanResult(
                tuple(bodies),
                parent,
                length,
                f"{name} does not follow the line before it: lines were moved, added or taken out",
            )
        bodies.append(body)
        parent, length = said, length + len(line) + 1
    fault = f"line {first + len(bodies) + 1} of {ENTRIES_FILE} is torn: it was never finished" if rest else None
    return ScanResult(tuple(bodies), parent, length, fault, bool(rest))


def _read(text: bytes) -> tuple[EntryBody, str | None]:
    """An entry, and what is wrong with its form."""
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        body = None
    return body, schema_error(body)


@dataclass
class EntryLog:
    """The file of one ledger. What was read and found sound is not read again."""

    folder: Path
    bodies: list[EntryBody] = field(default_factory=list)
    last: str = FIRST_PARENT_HASH
    length: int = 0

    @property
    def file(self) -> Path:
        return self.folder / ENTRIES_FILE

    def known_head(self) -> EntryBody | None:
        """What the head's file says; None where it is missing or damaged.

        `LedgerError` where it is of another format.
        """
        try:
            told = json.loads((self.folder / HEAD_FILE).read_bytes())
        except (OSError, ValueError):
            return None
        if not isinstance(told, dict) or [type(told.get(key)) for key in ("format", "seq", "hash")] != [int, int, str]:
            return None
        message = (
            f"ledger {self.folder} is of format version {told['format']}, this library reads {_LEDGER_FORMAT}: update"
            " unconcept"
        )
        require(told["format"] == _LEDGER_FORMAT, message, LedgerError)
        return told

    def head(self) -> EntryBody:
        """How far the file was acknowledged."""
        told = self.known_head()
        if told is None:
            raise LedgerError(
                f"ledger {self.folder}: {HEAD_FILE} is missing or damaged: see `unconcept ledger verify {self.folder}`"
            )
        return told

    def hash_of(self, seq: int) -> str:
        """Of an entry that was read."""
        return self.last if seq == len(self.bodies) - 1 else self.bodies[seq + 1]["parent"]

    def refresh(self, torn: bool = False) -> ScanResult:
        """Read what is new.

        `LedgerError` names the first line that is not sound; a torn last one is let pass if `torn`.
        """
        require(
            self.folder.is_dir() and self.file.exists(),
            f"{self.folder} is no ledger: make one with `unconcept ledger init`",
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
            f"; no entry is lost: mend it with `unconcept ledger repair {self.folder}`"
            if found.torn and acknowledged
            else ""
        )
        require(not found.fault or (torn and bool(mend)), f"ledger {self.folder}: {found.fault}{mend}", LedgerError)
        require(
            acknowledged,
            f"ledger {self.folder}: {HEAD_FILE} tells of {head['seq'] + 1} entries, {ENTRIES_FILE} holds fewer: some"
            " were lost",
            LedgerError,
        )
        self.bodies += found.bodies
        self.last, self.length = found.last, self.length + found.length
        require(
            self.hash_of(head["seq"]) == head["hash"],
            f"ledger {self.folder}: {HEAD_FILE} is not of the entries in {ENTRIES_FILE}",
            LedgerError,
        )
        return found

    @contextmanager
    def write_lock(self) -> Iterator[None]:
        """Inside, no other process writes, and what others wrote before has been read."""
        with folder_lock(self.folder):
            self.refresh()
            yield

    def append(self, body: EntryBody) -> EntryBody:
        """Write one entry to the disk, whole or not at all. Only inside `writing`."""
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
        """Say that all that was read is there to stay."""
        head = canonical_json({"format": _LEDGER_FORMAT, "seq": len(self.bodies) - 1, "hash": self.last}) + b"\n"
        write_atomically(self.folder / HEAD_FILE, head, WRITE_REMEDY, durable=True)


@contextmanager
def gc_paused() -> Iterator[None]:
    """Inside, no garbage is looked for: a long ledger is objects that all live, and looking costs three times the
    reading.
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
    """Inside, no other process holds the folder's lock; the kernel releases it when a process dies."""
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
    """Append after the first `length` bytes, and be sure that it is on the disk; an error leaves the file as it was."""
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
    """`LedgerError` on a file that is there and cannot be read."""
    try:
        yield
    except OSError as error:
        raise LedgerError(
            f"{path} cannot be read: {error.strerror or error}; make it readable, or take a copy of the ledger"
        ) from None
