"""Stores pictures and raw scores by content: drawn once, scored once, shared by every run and suite.

A picture's key is a hash of model, edit, prompt, seed and sampler, never of a run. Files are written in one step under
their final names, so that several runs may share a store. Raw scores are in a SQLite file beside the pictures; no
decision made from them is stored.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from torch import Tensor

from ...core.errors import DataError, OutputError, StoreError, require
from ...core.output_folder import STORE_REMEDY, STORE_VARIABLE, atomic_file, write_atomically
from ...models.images import read_picture
from ...report.images import to_image
from .remote_files import RemoteFiles
from .scores import ScoreRow, Scores, ScoreTable, SqliteScores

FORMAT_FILE = "store.json"
_STORE_FORMAT = 2  # 1 was that of version 0.1, whose keys were made of whole folders of source


class PictureStore:
    """A folder of pictures, results of attacks, edits and a table of raw scores; it may stand before a URL."""

    def __init__(
        self,
        root: Path,
        pictures: Path | None = None,
        scores: ScoreTable | None = None,
        remote: RemoteFiles | None = None,
    ) -> None:
        """Open a store; `pictures` is another folder for pictures that must not stay, `scores` another table, `remote`
        the files at a URL that the folder is before.
        """
        self.root, self.pictures, self.remote = root, pictures or root / "pictures", remote
        try:
            root.mkdir(parents=True, exist_ok=True)
            self._check_format(root / FORMAT_FILE)
            self._scores = scores or SqliteScores(root / "scores.sqlite")
        except OSError as error:
            raise OutputError(f"store {root}: {error}; set {STORE_VARIABLE} to a folder that can be written") from None

    def _check_format(self, path: Path) -> None:
        own = json.dumps({"format": _STORE_FORMAT}).encode()
        there = self.remote.files.read(FORMAT_FILE) if self.remote else None
        if there is not None or not path.exists():
            write_atomically(path, there or own, STORE_REMEDY)
        if self.remote and there is None:
            self.remote.files.write(FORMAT_FILE, own)
        try:
            found = json.loads(path.read_text(encoding="utf-8"))["format"]
        except (ValueError, KeyError, TypeError):
            found = None
        place = self.remote.files.shown if self.remote else self.root
        message = (
            f"store {place} has format {found}, this version reads {_STORE_FORMAT}: delete the folder, which holds"
            f" nothing that cannot be made again, or set {STORE_VARIABLE} to another one"
        )
        require(found == _STORE_FORMAT, message, StoreError)

    def path(self, key: str) -> Path:
        return self.pictures / key[:2] / f"{key}.png"

    def has(self, key: str) -> bool:
        return self.path(key).exists() if self.remote is None else self.remote.holds(self.path(key))

    def save(self, key: str, picture: Tensor) -> None:
        """Save a picture (3, h, w) in [0, 1] as 8-bit PNG. An existing file is not replaced."""
        path = self.path(key)
        if not path.exists():
            with atomic_file(path, STORE_REMEDY) as part:
                to_image(picture).save(part, "PNG")
        if self.remote:
            self.remote.push(path)

    def load(self, key: str) -> Tensor:
        """Load a picture (3, h, w) in [0, 1], in steps of 1/255; `StoreError` if it is missing or broken."""
        path = self.path(key)
        if self.remote and not path.exists():
            self.remote.fetch(path)
        return load_stored_picture(path)

    def has_result(self, path: Path) -> bool:
        """Whether the store has a result: the file at `path`, which is written last, and those beside it whose names
        begin alike. They are in the folder then.
        """
        if self.remote is None:
            return path.exists()
        if not self.remote.is_listed(path) and path.exists():
            self.share_result(path)
        if not self.remote.holds(path):
            return False
        self.remote.fetch_beside(path)
        return True

    def share_result(self, path: Path) -> None:
        """Let other machines see a result that was written into the folder."""
        if self.remote:
            beside = {file for file in path.parent.glob(f"{path.stem}*") if not file.name.endswith(".part")}
            for file in (*sorted(beside - {path}), path):
                self.remote.push(file)

    def load_scores(self, scorer: str, asked: Sequence[tuple[str, str]]) -> Scores:
        """Load the stored raw scores of these (picture, question) pairs; pairs without a score are left out."""
        return self._scores.load(scorer, asked)

    def save_scores(self, scorer: str, rows: Iterable[ScoreRow]) -> None:
        """Add (picture, question, raw score) rows in one transaction."""
        self._scores.save(scorer, list(rows))


def load_stored_picture(path: Path) -> Tensor:
    """Load an RGB picture file as (3, h, w) in [0, 1]; `StoreError` if it is missing, broken or far too large."""
    try:
        return read_picture(path)
    except DataError as error:
        raise StoreError(f"{error}; remove it and run the same command, which draws it again") from None


def hash_folder(folder: Path) -> str:
    """SHA-256 over names and bytes of a model folder's configuration and weight files."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.suffix in (".json", ".safetensors", ".txt")):
        digest.update(os.fsencode(path.relative_to(folder)))
        digest.update(bytes.fromhex(hash_file(path)))
    return digest.hexdigest()


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
