"""Stores the text states and edits of a ledger, each as a safetensors file named by the SHA-256 of its bytes."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from ...core.errors import LedgerError, require
from ...edits import Edit, load_edit
from ...models.checkpoint.safetensors_io import DeferredTensor, write_deferred_tensors
from ...models.text.state_cache import TextStateCache
from ...models.text.tokenizer import TextPosition
from .disk import is_hash, ledger_read_errors, store_by_hash

ARTIFACTS_FOLDER = "artifacts"
_SUFFIX = ".safetensors"


@dataclass
class Artifacts:
    """The artifacts folder of one ledger. Text states stay in memory once read: they are small."""

    folder: Path
    states: dict[str, TextStateCache] = field(default_factory=dict)

    def path(self, name: str) -> Path:
        """The path of an artifact; `LedgerError` if it is missing or its name is not a hash."""
        require(
            is_hash(name),
            f"artifact {name!r}: a name must be a SHA-256 of 64 hexadecimal digits; restore the ledger from a copy",
            LedgerError,
        )
        path = self.folder / f"{name}{_SUFFIX}"
        require(
            path.is_file(),
            f"artifact {path} is missing: restore it from a copy of the ledger, or revoke its request and add it again",
            LedgerError,
        )
        return path

    def put_states(self, known: TextStateCache) -> str:
        """Save text states in one file, sorted by position and text. Returns its name."""
        places: dict[TextPosition, list[str]] = {}
        for at, text in sorted(known):
            places.setdefault(at, []).append(text)
        slots: dict[str, DeferredTensor] = {}
        for at, texts in places.items():
            slots[at] = _slot(torch.stack([known[at, text] for text in texts]))
        texts_json = json.dumps(places, sort_keys=True)
        name = self._put(lambda path: write_deferred_tensors(path, slots, {"texts": texts_json}))
        self.states[name] = known
        return name

    def get_states(self, name: str) -> TextStateCache:
        """Load what `put_states` saved; `LedgerError` if the file has changed since."""
        if name not in self.states:
            data = self._bytes(name)
            try:
                size = int.from_bytes(data[:8], "little")
                places: Mapping[TextPosition, list[str]] = json.loads(
                    json.loads(data[8 : 8 + size])["__metadata__"]["texts"]
                )
                tensors = load(data)
                self.states[name] = {
                    (at, text): row
                    for at, texts in places.items()
                    for text, row in zip(texts, tensors[at].unbind(), strict=True)
                }
            except (SafetensorError, ValueError, KeyError) as error:
                raise LedgerError(f"artifact {name} holds no text states: {error}") from None
        return self.states[name]

    def put_edit(self, edit: Edit) -> str:
        """Save a stamped edit. Returns its name."""
        return self._put(edit.save)

    def get_edit(self, name: str) -> Edit:
        """Load what `put_edit` saved; `LedgerError` if the file has changed since."""
        self._bytes(name)
        return load_edit(self.path(name))

    def integrity_error(self, name: str) -> str | None:
        """Describe what is wrong with an artifact; None if it is sound."""
        try:
            self._bytes(name)
        except LedgerError as error:
            return str(error)
        return None

    def require_all(self, names: Iterable[str]) -> None:
        """`LedgerError` if an artifact that was just stored is gone. Call it inside the write lock."""
        for name in names:
            message = f"artifact {name} was removed by `repair` or `forget` meanwhile: run the command again"
            require((self.folder / f"{name}{_SUFFIX}").is_file(), message, LedgerError)

    def unreferenced_files(self, named: Iterable[str]) -> list[Path]:
        """List files that no entry names: a process died before it wrote the entry."""
        kept = {f"{name}{_SUFFIX}" for name in named}
        return sorted(path for path in self.folder.iterdir() if path.name not in kept) if self.folder.is_dir() else []

    def _bytes(self, name: str) -> bytes:
        with ledger_read_errors(self.path(name)):
            data = self.path(name).read_bytes()
        message = f"artifact {self.path(name)} was changed: its bytes do not match its name; restore it from a copy"
        require(sha256(data).hexdigest() == name, message, LedgerError)
        return data

    def _put(self, write: Callable[[Path], None]) -> str:
        return store_by_hash(self.folder, _SUFFIX, write)


def artifact_names(bodies: Iterable[Mapping[str, Any]]) -> set[str]:
    """Names of all artifacts that entries refer to."""
    names: set[str] = set()
    for body in bodies:
        names |= {*body.get("artifacts", ()), *(kept["edit"] for kept in body.get("trained", {}).values())}
        if body.get("edit"):
            names.add(body["edit"])
    return names


def _slot(tensor: Tensor) -> DeferredTensor:
    return DeferredTensor(tuple(tensor.shape), tensor.dtype, lambda: tensor)
