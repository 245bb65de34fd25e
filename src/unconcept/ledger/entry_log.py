"""An append-only file of entries, each chained to the one before by its hash: the only thing of a ledger that grows.

A line is `{"body":BODY,"hash":"SHA-256 of BODY"}` with BODY canonical JSON that names the hash of the line before as `parent`.
`head.json`, replaced whole after each append, says how far the file was acknowledged. Lines beyond it were written by a process
that died before it could say so: a whole one counts, a torn one is no entry and is mended by `repair` alone.
"""

import gc
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from ..core.errors import LedgerError, OutputError, require
from .entry_schema import misshapen

FORMAT = 1
ENTRIES, HEAD, LOCK = "entries.jsonl", "head.json", "lock"
ROOT = "0" * 64  # parent of the first entry
BEFORE, BETWEEN, AFTER = b'{"body":', b',"hash":"', b'"}'
TAIL = len(BETWEEN) + 64 + len(AFTER)
PATIENCE = 10.0  # seconds to wait for another writer

Body = dict[str, Any]


@dataclass(frozen=True)
class Scan:
    """What a stretch of the file holds."""

    bodies: tuple[Body, ...] = ()
    last: str = ROOT  # hash of the last sound line
    length: int = 0  # bytes of the sound lines
    fault: str | None = None  # what is wrong with the first line that is not sound
    torn: bool = False  # that line is the last and has no end


def canonical(body: Body) -> bytes:
    """Sorted keys, no spaces, UTF-8; no numbers with a fraction, which other languages write otherwise."""
    return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def scan(data: bytes, parent: str = ROOT, first: int = 0) -> Scan:
    """Read lines until one is not what was written."""
    bodies: list[Body] = []
    length = 0
    *lines, rest = data.split(b"\n")
    for line in lines:
        name = f"line {first + len(bodies) + 1} of {ENTRIES}"
        text, said = line[len(BEFORE) : -TAIL], line[-TAIL + len(BETWEEN) : -len(AFTER)].decode(errors="replace")
        if line != BEFORE + text + BETWEEN + said.encode() + AFTER or sha256(text).hexdigest() != said:
            return Scan(tuple(bodies), parent, length, f"{name} is not what was written")
        body, wrong = _read(text)
        if wrong:
            return Scan(tuple(bodies), parent, length, f"{name} {wrong}")
        if (body["seq"], body["parent"]) != (first + len(bodies), parent):
            return Scan(tuple(bodies), parent, length, f"{name} does not follow the line before it: lines were moved, added or taken out")
        bodies.append(body)
        parent, length = said, length + len(line) + 1
    fault = f"line {first + len(bodies) + 1} of {ENTRIES} is torn: it was never finished" if rest else None
    return Scan(tuple(bodies), parent, length, fault, bool(rest))


def _read(text: bytes) -> tuple[Body, str | None]:
    """An entry, and what is wrong with its form."""
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        body = None
    return body, misshapen(body)


@dataclass
class Chain:
    """The file of one ledger. What was read and found sound is not read again."""

    folder: Path
    bodies: list[Body] = field(default_factory=list)
    last: str = ROOT
    length: int = 0

    @property
    def file(self) -> Path:
        return self.folder / ENTRIES

    def known_head(self) -> Body | None:
        """What the head's file says; None where it is missing or damaged. `LedgerError` where it is of another format."""
        try:
            told = json.loads((self.folder / HEAD).read_bytes())
        except (OSError, ValueError):
            return None
        if not isinstance(told, dict) or [type(told.get(key)) for key in ("format", "seq", "hash")] != [int, int, str]:
            return None
        message = f"ledger {self.folder} is of format version {told['format']}, this library reads {FORMAT}: update unconcept"
        require(told["format"] == FORMAT, message, LedgerError)
        return told

    def head(self) -> Body:
        """How far the file was acknowledged."""
        told = self.known_head()
        if told is None:
            raise LedgerError(f"ledger {self.folder}: {HEAD} is missing or damaged: see `unconcept ledger verify {self.folder}`")
        return told

    def hash_of(self, seq: int) -> str:
        """Of an entry that was read."""
        return self.last if seq == len(self.bodies) - 1 else self.bodies[seq + 1]["parent"]

    def refresh(self, torn: bool = False) -> Scan:
        """Read what is new. `LedgerError` names the first line that is not sound; a torn last one is let pass if `torn`."""
        require(self.folder.is_dir() and self.file.exists(), f"{self.folder} is no ledger: make one with `unconcept ledger init`", LedgerError)
        head = self.head()
        with reading(self.file), self.file.open("rb") as file:
            require(os.fstat(file.fileno()).st_size >= self.length, f"ledger {self.folder}: {ENTRIES} was cut short while it was open", LedgerError)
            file.seek(self.length)
            found = scan(file.read(), self.last, len(self.bodies))
        acknowledged = 0 <= head["seq"] < len(self.bodies) + len(found.bodies)
        mend = f"; no entry is lost: mend it with `unconcept ledger repair {self.folder}`" if found.torn and acknowledged else ""
        require(not found.fault or (torn and bool(mend)), f"ledger {self.folder}: {found.fault}{mend}", LedgerError)
        require(acknowledged, f"ledger {self.folder}: {HEAD} tells of {head['seq'] + 1} entries, {ENTRIES} holds fewer: some were lost", LedgerError)
        self.bodies += found.bodies
        self.last, self.length = found.last, self.length + found.length
        require(self.hash_of(head["seq"]) == head["hash"], f"ledger {self.folder}: {HEAD} is not of the entries in {ENTRIES}", LedgerError)
        return found

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Inside, no other process writes, and what others wrote before has been read."""
        with locked(self.folder):
            self.refresh()
            yield

    def append(self, body: Body) -> Body:
        """Write one entry to the disk, whole or not at all. Only inside `writing`."""
        whole = {**body, "seq": len(self.bodies), "parent": self.last}
        text = canonical(whole)
        said = sha256(text).hexdigest()
        line = BEFORE + text + BETWEEN + said.encode() + AFTER + b"\n"
        write_end(self.file, line, self.length)
        self.bodies.append(whole)
        self.last, self.length = said, self.length + len(line)
        self.acknowledge()
        return whole

    def acknowledge(self) -> None:
        """Say that all that was read is there to stay."""
        write_whole(self.folder / HEAD, canonical({"format": FORMAT, "seq": len(self.bodies) - 1, "hash": self.last}) + b"\n")


@contextmanager
def uncollected() -> Iterator[None]:
    """Inside, no garbage is looked for: a long ledger is objects that all live, and looking costs three times the reading."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Inside, no other process holds the folder's lock; the kernel lets go of it when a process dies."""
    import fcntl  # POSIX alone.

    with _saying(folder):
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        patience = time.monotonic() + PATIENCE
        while True:
            with suppress(BlockingIOError):
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            require(time.monotonic() < patience, f"ledger {folder}: another process is writing; wait for it and try again", LedgerError)
            time.sleep(0.01)
        yield
    finally:
        os.close(handle)


def write_end(path: Path, data: bytes, length: int) -> None:
    """Append after the first `length` bytes, and be sure that it is on the disk; an error leaves the file as it was."""
    with _saying(path):
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


def write_whole(path: Path, data: bytes) -> None:
    """Replace a file by another, on the disk: a reader sees the one or the other."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with _saying(path):
        try:
            part.write_bytes(data)
            settle(part)
            os.replace(part, path)
        except OSError:
            part.unlink(missing_ok=True)
            raise
        settle(path.parent)


def settle(path: Path) -> None:
    """Be sure that a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """`LedgerError` on a file that is there and cannot be read."""
    try:
        yield
    except OSError as error:
        raise LedgerError(f"{path} cannot be read: {error.strerror or error}; make it readable, or take a copy of the ledger") from None


@contextmanager
def _saying(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        message = f"{path}: {error.strerror or error}; nothing was changed: free some space, or make the folder writable"
        raise OutputError(message) from None
