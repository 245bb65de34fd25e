"""The private file beside a ledger's chain: who asks, why, and for what.

An entry of format 2 holds a commitment to each of its parts, the SHA-256 of the part with a random salt. Part and salt
stand here, one line an entry, in a file that only its owner may read. Once they are destroyed, the entry still verifies
and nothing can be looked up in it.
"""

import json
import os
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...core.hashing import hash_json
from ...core.output_folder import fsync, output_errors
from .disk import LEDGER_MODE, WRITE_REMEDY, append_durably, canonical_json, ledger_read_errors, write_privately

PRIVATE_FILE = "private.jsonl"
_SALT_BYTES = 32
_FORGET_REMEDY = "free some space, then run the same `unconcept ledger forget` again: it goes on where it stopped"

EntryParts = dict[str, "SealedPart"]  # by name


@dataclass(frozen=True)
class SealedPart:
    """One part of an entry, and the salt of its commitment."""

    data: Mapping[str, Any]
    salt: str

    @property
    def commitment(self) -> str:
        """What the entry holds in place of the part."""
        return hash_json({"data": self.data, "salt": self.salt})


def random_salt() -> str:
    """A salt that nobody can guess."""
    return secrets.token_hex(_SALT_BYTES)


def seal_parts(parts: Mapping[str, Mapping[str, Any]]) -> EntryParts:
    """Give each part a salt of its own, so that each can be destroyed alone."""
    return {name: SealedPart(json.loads(canonical_json(data)), random_salt()) for name, data in parts.items()}


@dataclass
class PrivateFile:
    """The private file of one ledger. Lines that were read are not read again, until the file is replaced."""

    folder: Path
    parts: dict[int, EntryParts] = field(default_factory=dict)  # by entry
    length: int = 0  # bytes of the lines that were read
    fault: str | None = None  # what is wrong with the line after them
    beyond: list[int] = field(default_factory=list)  # numbers of entries whose lines stand after those of known entries
    _inode: int = 0

    @property
    def path(self) -> Path:
        return self.folder / PRIVATE_FILE

    def refresh(self, entries: int) -> bool:
        """Read the lines of the first `entries` entries. Returns whether the file was replaced since it was read."""
        if not self.path.exists():
            replaced = bool(self.parts)
            self.reset()
            return replaced
        with ledger_read_errors(self.path), self.path.open("rb") as file:
            found = os.fstat(file.fileno())
            replaced = self._inode not in (0, found.st_ino) or found.st_size < self.length
            if replaced:
                self.parts, self.length = {}, 0
            self._inode = found.st_ino
            file.seek(self.length)
            self._read_lines(file.read(), entries)
        return replaced

    def reset(self) -> None:
        """Read the file from its beginning the next time."""
        self.parts, self.length, self.fault, self._inode = {}, 0, None, 0
        self.beyond = []

    def _read_lines(self, data: bytes, entries: int) -> None:
        self.fault, self.beyond = None, []
        *lines, _ = data.split(b"\n")
        for line in lines:
            entry, parts = _parse_line(line)
            if entry is None or (self.parts and entry <= next(reversed(self.parts))):
                self.fault = f"line {len(self.parts) + 1} of {PRIVATE_FILE} was changed"
                return
            if entry >= entries:
                self.beyond.append(entry)
                continue
            self.parts[entry] = parts
            self.length += len(line) + 1

    def tail(self) -> bytes:
        """What stands after the lines of known entries: a process died before it wrote the entry."""
        if not self.path.exists():
            return b""
        with ledger_read_errors(self.path):
            return self.path.read_bytes()[self.length :]

    def append(self, entry: int, parts: EntryParts) -> None:
        """Write the parts of one entry to the disk, before the entry itself is written."""
        line, is_new = private_line(entry, parts), not self.path.exists()
        append_durably(self.path, line, self.length, LEDGER_MODE)
        if is_new:
            with output_errors(self.folder, WRITE_REMEDY):
                fsync(self.folder)
        self.parts[entry] = parts
        self.length += len(line)
        self._inode = self.path.stat().st_ino

    def take_back(self, entry: int) -> None:
        """Remove the parts of the last entry, which could not be written."""
        self.length -= len(private_line(entry, self.parts.pop(entry)))
        append_durably(self.path, b"", self.length, LEDGER_MODE)

    def destroy(self, gone: Iterable[tuple[int, str]]) -> None:
        """Write the file again without these parts and their salts, by entry and name."""
        dropped = set(gone)
        kept: dict[int, EntryParts] = {}
        for entry, parts in self.parts.items():
            left = {name: part for name, part in parts.items() if (entry, name) not in dropped}
            if left:
                kept[entry] = left
        data = b"".join(private_line(entry, parts) for entry, parts in kept.items())
        write_privately(self.path, data, _FORGET_REMEDY)
        self.parts, self.length, self._inode = kept, len(data), self.path.stat().st_ino


def private_line(entry: int, parts: EntryParts) -> bytes:
    """One line of the file."""
    told = {name: {"data": part.data, "salt": part.salt} for name, part in parts.items()}
    return canonical_json({"entry": entry, "parts": told}) + b"\n"


def _parse_line(line: bytes) -> tuple[int | None, EntryParts]:
    """The number of an entry and its parts; None and no parts for anything but a line as `private_line` writes it."""
    try:
        told = json.loads(line)
        parts = {name: SealedPart(part["data"], part["salt"]) for name, part in told["parts"].items()}
        whole = type(told["entry"]) is int and private_line(told["entry"], parts) == line + b"\n"
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return None, {}
    return (told["entry"], parts) if whole else (None, {})
