"""Stores the contact sheets of audits beside the chain, each as a PNG named by the SHA-256 of its bytes.

The findings of an audit name its sheet. Whoever may read the ledger may delete sheets: nothing depends on them.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from .disk import delete_durably, is_hash, ledger_read_errors, store_by_hash

PICTURES_FOLDER = "pictures"
_SUFFIX = ".png"


@dataclass(frozen=True)
class AuditPictures:
    """The pictures folder of one ledger."""

    folder: Path

    def path(self, name: str) -> Path:
        """The path of a sheet, which may have been deleted."""
        return self.folder / f"{name}{_SUFFIX}"

    def put(self, data: bytes) -> str:
        """Store a sheet. Returns its name. Call it inside `write_lock` only."""
        return store_by_hash(self.folder, _SUFFIX, _writer(data))

    def get(self, name: str) -> bytes | None:
        """The bytes of a sheet; None if it was deleted, or changed since."""
        if self.integrity_error(name) is not None or not self.path(name).is_file():
            return None
        return self.path(name).read_bytes()

    def integrity_error(self, name: str) -> str | None:
        """Describe what is wrong with a sheet; None if it is sound or was deleted."""
        if not is_hash(name):
            return f"the pictures of an audit are named {name!r}, which is no SHA-256; restore the ledger from a copy"
        path = self.path(name)
        if not path.is_file():
            return None
        with ledger_read_errors(path):
            is_same = sha256(path.read_bytes()).hexdigest() == name
        return None if is_same else f"{path} was changed: its bytes do not match its name; restore or delete it"

    def unreferenced_files(self, named: Iterable[str]) -> list[Path]:
        """List files that no audit names: a process died before it wrote the entry."""
        kept = {self.path(name) for name in named}
        return sorted(path for path in self.folder.iterdir() if path not in kept) if self.folder.is_dir() else []

    def delete_unreferenced(self, named: Iterable[str], remedy: str) -> int:
        """Delete the sheets that no audit names, whole or not. Returns how many. Call it inside `write_lock` only."""
        stray = self.unreferenced_files(named)
        own = [path for path in stray if path.suffix == ".part" or (path.suffix == _SUFFIX and is_hash(path.stem))]
        delete_durably(own, remedy)
        return len(own)


def sheet_names(bodies: Iterable[Mapping[str, Any]]) -> set[str]:
    """Names of the sheets of all audits whose findings are not forgotten, in whole or in part."""
    return {body["found"]["sheet"] for body in bodies if has_sheet(body)}


def has_sheet(body: Mapping[str, Any]) -> bool:
    """Whether an entry is an audit that kept pictures, and its state and its findings are not forgotten."""
    found = body.get("found", {})
    return body["op"] == "audit" and "state" in found and bool(found.get("sheet"))


def _writer(data: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(data)

    return write
