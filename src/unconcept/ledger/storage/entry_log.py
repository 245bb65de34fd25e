"""The append-only file of a ledger's entries, each chained to the one before by its hash.

A line is `{"body":BODY,"hash":"SHA-256 of BODY"}` with BODY canonical JSON that names the hash of the line before as
`parent`. `head.json`, replaced whole after each append, names the last acknowledged entry. Lines after it come from a
process that died before it updated the head: a complete line counts as an entry, a torn line does not, and only
`repair` takes it off. New entries have format 2: what they say of persons and requests stands in the private file, and
the chain holds commitments to it. Entries of format 1, which version 0.1 wrote, hold everything themselves.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from ...core.errors import LedgerError, OutputError, require
from ...core.output_folder import write_atomically
from ...core.regular_files import require_regular_file
from .disk import append_durably, canonical_json, folder_lock, ledger_read_errors
from .entry_schema import content_error, schema_error
from .private_file import PRIVATE_FILE, PrivateFile, seal_parts
from .sealed_entries import (
    SEALED_FORMAT,
    EntryBody,
    ForgottenParts,
    forgotten_parts,
    reveal_body,
    seal_body,
    sealed_faults,
)

_FORMATS = (1, SEALED_FORMAT)
ENTRIES_FILE, HEAD_FILE = "entries.jsonl", "head.json"
FIRST_PARENT_HASH = "0" * 64  # parent of the first entry
LINE_PREFIX, LINE_SEPARATOR, LINE_SUFFIX = b'{"body":', b',"hash":"', b'"}'
_LINE_TAIL_LENGTH = len(LINE_SEPARATOR) + 64 + len(LINE_SUFFIX)
_COUNTS = "counts, do not repeat it"
_KNOWN = {  # what else is so after an entry was written, but the head file could not be
    "forget": "counts, but what it names is not destroyed before the command is run again or the ledger repaired",
    "materialize": "counts, but nothing is written out: run the command again",
}
_READ_ATTEMPTS = 5  # a `forget` of another process may come between reading the entries and the private file


@dataclass(frozen=True)
class ScanResult:
    """The entries read from a part of the file, and the first fault."""

    bodies: tuple[EntryBody, ...] = ()
    last: str = FIRST_PARENT_HASH  # hash of the last valid line
    length: int = 0  # bytes of the valid lines
    fault: str | None = None  # what is wrong with the first invalid line
    torn: bool = False  # the invalid line is the last one, without a line break


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
            moved = f"{name} does not follow the line before it: lines were moved, added or removed"
            return ScanResult(tuple(bodies), parent, length, moved)
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
    chain: list[EntryBody] = field(default_factory=list)  # as the lines hold them
    bodies: list[EntryBody] = field(default_factory=list)  # joined with what is left of their private parts
    last: str = FIRST_PARENT_HASH
    length: int = 0
    size: int = 0  # bytes of the file when it was last read, an incomplete last line among them
    generation: int = 0  # rises when earlier entries lose parts: what was derived from them is to be derived again
    forgotten: ForgottenParts = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.private = PrivateFile(self.folder)

    @property
    def file(self) -> Path:
        return self.folder / ENTRIES_FILE

    def known_head(self) -> EntryBody | None:
        """The content of the head file; None if it is missing or damaged.

        `LedgerError` if it has another format version.
        """
        require_regular_file(self.folder / HEAD_FILE, LedgerError)
        try:
            told = json.loads((self.folder / HEAD_FILE).read_bytes())
        except (OSError, ValueError):
            return None
        if not isinstance(told, dict) or [type(told.get(key)) for key in ("format", "seq", "hash")] != [int, int, str]:
            return None
        message = (
            f"ledger {self.folder} has format version {told['format']}, this library reads"
            f" {' and '.join(map(str, _FORMATS))}: update unconcept"
        )
        require(told["format"] in _FORMATS, message, LedgerError)
        return told

    def head(self) -> EntryBody:
        """The last acknowledged entry: its number and hash; `LedgerError` if the head file is missing or damaged."""
        told = self.known_head()
        if told is None:
            raise LedgerError(f"ledger {self.folder}: {HEAD_FILE} is missing or damaged: run `unconcept ledger verify`")
        return told

    def hash_of(self, seq: int) -> str:
        """The hash of an entry that was read."""
        return self.last if seq == len(self.chain) - 1 else self.chain[seq + 1]["parent"]

    def refresh(self, torn: bool = False) -> ScanResult:
        """Read new entries and their private parts.

        `LedgerError` names the first invalid line; a torn last line is tolerated if `torn`.
        """
        faults: list[str] = []
        for _ in range(_READ_ATTEMPTS):
            found = self._read_chain(torn)
            faults = self.reveal() or self.lost_entries()
            if not faults:
                return found
        raise LedgerError(f"ledger {self.folder}: {faults[0]}; restore the ledger from a copy")

    def lost_entries(self) -> list[str]:
        """What shows that the chain once had more entries than were read; empty if nothing does.

        A writer that dies leaves the private parts of one entry without their line. Those of more, or of a later one,
        tell that lines were lost, though the head file may have been put back with them.
        """
        beyond, next_entry = self.private.beyond, len(self.chain)
        if not beyond or beyond == [next_entry] or self.file.stat().st_size > self.size:  # Or others write meanwhile.
            return []
        return [
            f"{PRIVATE_FILE} holds parts of entry {beyond[-1]}, {ENTRIES_FILE} {next_entry} entries: some were lost"
        ]

    def _read_chain(self, torn: bool) -> ScanResult:
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
            data = file.read()
        self.size = self.length + len(data)
        found = scan_entries(data, self.last, len(self.chain))
        acknowledged = 0 <= head["seq"] < len(self.chain) + len(found.bodies)
        mend = "; no entry is lost: run `unconcept ledger repair`" if found.torn and acknowledged else ""
        require(not found.fault or (torn and bool(mend)), f"ledger {self.folder}: {found.fault}{mend}", LedgerError)
        require(
            acknowledged,
            f"ledger {self.folder}: {HEAD_FILE} counts {head['seq'] + 1} entries, {ENTRIES_FILE} holds fewer: some were"
            " lost; restore the ledger from a copy",
            LedgerError,
        )
        self.accept(found)
        require(
            self.hash_of(head["seq"]) == head["hash"],
            f"ledger {self.folder}: {HEAD_FILE} does not match the entries in {ENTRIES_FILE}: restore the ledger"
            " from a copy",
            LedgerError,
        )
        return found

    def accept(self, found: ScanResult) -> None:
        """Take over lines that were read."""
        self.chain += found.bodies
        self.last, self.length = found.last, self.length + found.length

    def reveal(self) -> list[str]:
        """Join entries with their private parts. Returns what is wrong with these; then nothing is joined."""
        new = self.chain[len(self.bodies) :]
        forgets = any(body["op"] == "forget" for body in new)
        if forgets:
            self.private.reset()
            self.forgotten = forgotten_parts(self.chain)
        if self.private.refresh(len(self.chain)) or forgets:
            self.bodies, new = [], self.chain
            self.generation += 1
        faults = sealed_faults(new, self.private.parts, self.forgotten)
        if faults and self.private.fault:
            faults.insert(0, self.private.fault)
        if faults:
            return faults
        bodies = list(self.bodies)
        for public in new:
            body, fault = self._joined(public, bodies)
            if fault:
                return [f"line {public['seq'] + 1} of {ENTRIES_FILE} {fault}"]
            bodies.append(body)
        self.bodies = bodies
        return []

    def _joined(self, public: EntryBody, before: list[EntryBody]) -> tuple[EntryBody, str | None]:
        """An entry with its parts, and what is wrong with it."""
        seq, gone = public["seq"], self.forgotten.get(public["seq"], frozenset())
        stored = self.private.parts.get(seq, {})
        body = reveal_body(public, {name: part for name, part in stored.items() if name not in gone})
        if "ask" in public:
            ask = before[public["ask"]] if 0 <= public["ask"] < seq else {"op": ""}
            if ask["op"] != "add":
                return body, f"({body['op']}) names entry {public['ask']}, which is not an ask"
            body |= {"id": ask["id"]} if "id" in ask else {}
        is_whole = "format" in public and not gone and (body["op"] != "revoke" or "id" in body)
        return body, content_error(body) if is_whole else None

    @contextmanager
    def write_lock(self) -> Iterator[None]:
        """Hold the write lock: inside, no other process writes, and all earlier entries have been read."""
        with folder_lock(self.folder):
            self.refresh()
            yield

    def append(self, body: EntryBody) -> EntryBody:
        """Write one entry to the disk, whole or not at all. Call it inside `write_lock` only."""
        public, parts = seal_body(body)
        seq = len(self.chain)
        try:
            sealed = seal_parts(parts)
            commitments = {name: part.commitment for name, part in sealed.items()}
            whole = {**public, "sealed": commitments, "seq": seq, "parent": self.last}
            text = canonical_json(whole)
        except UnicodeEncodeError as error:
            raise LedgerError(
                f"{error.object[error.start : error.end]!r} is half of a character, which UTF-8 cannot hold: type it"
                " again, without what was cut off"
            ) from None
        fault = schema_error(json.loads(text))
        assert fault is None, fault
        said = sha256(text).hexdigest()
        line = LINE_PREFIX + text + LINE_SEPARATOR + said.encode() + LINE_SUFFIX + b"\n"
        self.private.append(seq, sealed)
        try:
            append_durably(self.file, line, self.length)
        except OutputError:
            with suppress(OutputError):  # Without its entry, the line counts for nothing.
                self.private.take_back(seq)
            raise
        self.accept(ScanResult((whole,), said, len(line)))
        faults = self.reveal()
        assert not faults, faults
        self.acknowledge(f"entry {seq} ({body['op']}) is on the disk and {_KNOWN.get(body['op'], _COUNTS)}")
        return self.bodies[-1]

    def acknowledge(self, known: str = "the entries are as they were") -> None:
        """Write the head file: it names the last entry that was read or written. If that fails, say what is known."""
        version = self.chain[-1].get("format", 1)
        head = canonical_json({"format": version, "seq": len(self.chain) - 1, "hash": self.last}) + b"\n"
        remedy = f"{known}; free some space, then run `unconcept ledger repair`, which brings {HEAD_FILE} up to date"
        write_atomically(self.folder / HEAD_FILE, head, remedy, durable=True)
