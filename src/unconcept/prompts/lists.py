"""Reads a list of texts, such as concepts to erase or texts to retain, from a file of any common form."""

import csv
from collections.abc import Iterator
from pathlib import Path

from ..core.errors import DataError, require
from .cells import CONCEPT_COLUMNS
from .entries import iter_raw_lines, read_header, read_json_entries, read_json_lines, read_table

_LIST_COLUMNS = (*CONCEPT_COLUMNS, "name", "text", "retain", "prompt")  # The first that a table has counts.


def read_texts(path: Path | None) -> tuple[str, ...]:
    """Read the texts of a file: one a line, a column of a .csv or .tsv table, or a JSON list; no path means none.

    Texts are stripped; blank ones, and lines that start with #, are skipped. A text that a table repeats counts once.
    `DataError` for a table in a file of lines, which would be read as one text a row.
    """
    if path is None:
        return ()
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv"):
        return tuple(dict.fromkeys(_texts_of_table(path)))
    if suffix in (".json", ".jsonl"):
        entries = read_json_lines(path) if suffix == ".jsonl" else read_json_entries(path)
        return tuple(dict.fromkeys(text for where, entry in entries if (text := _text_of(path, where, entry))))
    lines = [line.strip() for line in iter_raw_lines(path)]
    texts = tuple(line for line in lines if line and not line.startswith("#"))
    _require_no_table(path, texts)
    return texts


def _texts_of_table(path: Path) -> Iterator[str]:
    header = read_header(path)
    column = _column_of(header)
    if column is None:
        raise DataError(
            f"{path}: the columns are {', '.join(header)[:200]}; needed is one of {', '.join(_LIST_COLUMNS)}; for one"
            " text a line, name the file .txt"
        )
    for _, row in read_table(path):
        if row[column].strip():
            yield row[column].strip()


def _column_of(header: list[str]) -> str | None:
    return next((name for name in _LIST_COLUMNS if name in header), None)


def _text_of(path: Path, where: str, entry: object) -> str:
    """The text of a JSON element: a string, or an object with one of the columns as key."""
    if isinstance(entry, dict):
        entry = next((entry[name] for name in _LIST_COLUMNS if name in entry), None)
    if not isinstance(entry, str):
        raise DataError(
            f"{path}, {where}: give a list of strings, or of objects with one of the keys {', '.join(_LIST_COLUMNS)}"
        )
    return entry.strip()


def _require_no_table(path: Path, texts: tuple[str, ...]) -> None:
    """Raise `DataError` if the first line is the header of a table and the next line has as many cells."""
    for delimiter in (",", "\t", ";"):
        rows = list(csv.reader(texts[:2], delimiter=delimiter))
        if len(rows) < 2 or len(rows[0]) < 2 or len(rows[0]) != len(rows[1]):
            continue
        known = _column_of([cell.strip().lower() for cell in rows[0]])
        message = f"{path} is a table, its column {known} holds the texts: name it .csv, with commas between columns"
        require(known is None, message, DataError)
