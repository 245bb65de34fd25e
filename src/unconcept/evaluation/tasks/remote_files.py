"""Files of a store at a URL, with a folder of this machine in front of it."""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from ...core.errors import StoreError, require
from ...core.hashing import hash_json
from ...core.output_folder import STORE_REMEDY, default_store, write_atomically
from .scores import ScoreRow, Scores, SqliteScores, sqlite_transaction
from .shared_files import SharedFiles, is_url

_CONTENT = re.compile(r"(pictures|attacks|edits|scores)(/[A-Za-z0-9_][A-Za-z0-9_.-]*)+")
_SCORES = "scores"  # folder of rows, a file for each set of them


def mirror_folder(url: str) -> Path:
    """The folder of this machine that stands before a store at a URL."""
    place = urlsplit(url)
    host = place.netloc.rpartition("@")[2]
    return default_store() / "mirrors" / hash_json([place.scheme, host, place.path.rstrip("/")])[:16]


def local_folder(place: str | Path | None) -> Path:
    """The folder of this machine for a store: itself, that before a URL, or the default one."""
    if place is None:
        return default_store()
    return mirror_folder(str(place)) if is_url(place) else Path(place)


class RemoteFiles:
    """The files at a URL. They are immutable and named by their content, so copies never differ."""

    def __init__(self, files: SharedFiles, root: Path, is_listed: bool = True) -> None:
        """`root` is the folder before it. Whether all names are listed at once, or each file is asked for, as by a
        worker, beside which others write.
        """
        self.files, self._root = files, root
        names = files.names() if is_listed else []
        self._names = {name for name in names if _CONTENT.fullmatch(name)} if is_listed else None
        self._pushed: list[str] = []

    def holds(self, path: Path) -> bool:
        """Whether there is a file for a path below the folder. It is not fetched if names are listed."""
        if self._names is None:
            return path.exists() or self.fetch(path)
        if self.name(path) not in self._names and path.exists():
            self.push(path)  # The URL was emptied, or the folder filled while it could not be reached.
        return self.name(path) in self._names

    def is_listed(self, path: Path) -> bool:
        """Whether the file is known to be at the URL."""
        return self._names is not None and self.name(path) in self._names

    def fetch(self, path: Path) -> bool:
        """Put the file into the folder. Whether there is one."""
        name = self.name(path)
        data = None if self._names is not None and name not in self._names else self.files.read(name)
        if data is None:
            return False
        write_atomically(path, data, STORE_REMEDY)
        return True

    def fetch_beside(self, path: Path) -> None:
        """Fetch all files whose names begin as that of the path, without its suffix."""
        start = self.name(path.with_suffix(""))
        known = self._names if self._names is not None else self.files.names(self.name(path.parent))
        for name in sorted(known):
            if name.startswith(start) and _CONTENT.fullmatch(name) and not (self._root / name).exists():
                self.fetch(self._root / name)

    def push(self, path: Path) -> None:
        """Copy a file of the folder to the URL, unless it is there."""
        name = self.name(path)
        if self._names is None or name not in self._names:
            self.files.write(name, path.read_bytes())
            self._pushed.append(name)
            self.learn([name])

    def learn(self, names: Iterable[str]) -> None:
        """Know files that a worker has pushed."""
        if self._names is not None:
            self._names.update(name for name in names if _CONTENT.fullmatch(name))

    def take_pushed(self) -> tuple[str, ...]:
        """The names of what was pushed since the last call."""
        taken, self._pushed = tuple(self._pushed), []
        return taken

    def score_files(self) -> list[str]:
        """The names of all files of scores."""
        return sorted(name for name in self._names or () if name.startswith(f"{_SCORES}/"))

    def name(self, path: Path) -> str:
        """The name of a path below the folder."""
        return PurePosixPath(path.relative_to(self._root)).as_posix()


class MirroredScores:
    """The table of this machine, and files of rows at the URL, from which every machine fills its table."""

    def __init__(self, remote: RemoteFiles, root: Path) -> None:
        self._remote, self._own = remote, SqliteScores(root / "scores.sqlite")
        with sqlite_transaction(self._own.path) as table:
            table.execute("CREATE TABLE IF NOT EXISTS merged (name TEXT PRIMARY KEY)")
            merged = {row[0] for row in table.execute("SELECT name FROM merged")}
        for name in remote.score_files():
            if name not in merged:
                self._merge(name)

    def load(self, scorer: str, asked: Sequence[tuple[str, str]]) -> Scores:
        return self._own.load(scorer, asked)

    def save(self, scorer: str, rows: Sequence[ScoreRow]) -> None:
        """Write the rows to the URL first: what the table of this machine lacks, it takes from there."""
        if not rows:
            return
        lines = [json.dumps([scorer, picture, asked, raw]) for picture, asked, raw in rows]
        data = "\n".join(lines).encode()
        name = f"{_SCORES}/{hashlib.sha256(data).hexdigest()}.jsonl"
        self._remote.files.write(name, data)
        self._own.save(scorer, rows)
        self._mark(name)

    def _merge(self, name: str) -> None:
        message = f"store {self._remote.files.shown}: {name} holds no scores: remove it, and they are made again"
        rows: dict[str, list[ScoreRow]] = {}
        try:
            for line in (self._remote.files.read(name) or b"").decode().splitlines():
                scorer, picture, asked, raw = json.loads(line)
                require(isinstance(raw, dict), message, StoreError)
                rows.setdefault(str(scorer), []).append((str(picture), str(asked), raw))
        except (ValueError, TypeError):
            raise StoreError(message) from None
        for scorer, own in rows.items():
            self._own.save(scorer, own)
        self._mark(name)

    def _mark(self, name: str) -> None:
        with sqlite_transaction(self._own.path) as table:
            table.execute("INSERT OR IGNORE INTO merged VALUES (?)", (name,))
