"""Raw scores of pictures, by scorer, picture and question: a table on a disk, or rows that a worker sends back."""

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Protocol

from ...core.errors import OutputError
from ...core.output_folder import STORE_REMEDY

ScoreRow = tuple[str, str, Mapping[str, object]]  # picture, question, raw score
Scores = dict[tuple[str, str], dict[str, object]]
_AT_ONCE = 500  # pictures of one query


class ScoreTable(Protocol):
    """Where a store has its raw scores."""

    def load(self, scorer: str, asked: Sequence[tuple[str, str]]) -> Scores:
        """Raw scores of these (picture, question) pairs; pairs without a score are left out."""

    def save(self, scorer: str, rows: Sequence[ScoreRow]) -> None:
        """Add rows, all or none."""


class SqliteScores:
    """A table in a SQLite file, which several processes of one machine may use."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with sqlite_transaction(path) as table:
            table.execute(
                "CREATE TABLE IF NOT EXISTS scores (scorer TEXT, picture TEXT, asked TEXT, raw TEXT, PRIMARY KEY"
                " (scorer, picture, asked))"
            )

    def load(self, scorer: str, asked: Sequence[tuple[str, str]]) -> Scores:
        wanted, found = set(asked), Scores()
        with sqlite_transaction(self.path) as table:
            for start in range(0, len(asked), _AT_ONCE):
                pictures = [picture for picture, _ in asked[start : start + _AT_ONCE]]
                marks = ",".join("?" * len(pictures))
                rows = table.execute(
                    f"SELECT picture, asked, raw FROM scores WHERE scorer = ? AND picture IN ({marks})",
                    (scorer, *pictures),
                )
                for picture, question, raw in rows:
                    if (picture, question) in wanted:
                        found[picture, question] = json.loads(raw)
        return found

    def save(self, scorer: str, rows: Sequence[ScoreRow]) -> None:
        with sqlite_transaction(self.path) as table:
            table.executemany(
                "INSERT OR REPLACE INTO scores VALUES (?, ?, ?, ?)",
                [(scorer, picture, asked, json.dumps(raw)) for picture, asked, raw in rows],
            )


class SentScores:
    """Rows that are sent to whoever alone writes the table: SQLite takes no writers from several machines."""

    def __init__(self) -> None:
        self._rows: list[tuple[str, ScoreRow]] = []

    def load(self, scorer: str, asked: Sequence[tuple[str, str]]) -> Scores:
        """What was saved since the last `take`; a worker knows no others."""
        wanted = set(asked)
        return {(p, q): dict(raw) for name, (p, q, raw) in self._rows if name == scorer and (p, q) in wanted}

    def save(self, scorer: str, rows: Sequence[ScoreRow]) -> None:
        self._rows += [(scorer, row) for row in rows]

    def take(self) -> list[tuple[str, ScoreRow]]:
        """The rows with their scorers, which are sent once."""
        taken, self._rows = self._rows, []
        return taken


@contextmanager
def sqlite_transaction(path: Path) -> Iterator[sqlite3.Connection]:
    """Run one transaction on a SQLite file that several processes may use; `OutputError` if it cannot be read or
    written.
    """
    try:
        with closing(sqlite3.connect(path, timeout=60)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            with connection:
                yield connection
    except sqlite3.Error as error:
        raise OutputError(f"{path}: {error}; {STORE_REMEDY}, or move the file away if it is damaged") from None
