"""Reads entries of text files: rows of a table, lines, elements of JSON.

A broken file raises an error of one line that says how to fix it. Tables and lines are streamed, so memory does not
grow with the file; JSON is read as a whole, up to `_MOST_JSON_BYTES`.
"""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from ..core.errors import DataError, require

_LONGEST_FIELD = 131_072  # characters of a line or cell: what Python's csv module allows
_MOST_JSON_BYTES = 2**28
_UTF16_MARKS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


def require_text_file(path: Path) -> None:
    """`DataError` unless the path is a readable file that starts like UTF-8 text."""
    try:
        require(path.exists(), f"{path} does not exist: give the path of a prompt file", DataError)
        require(path.is_file(), f"{path} is a folder or a device: give one file", DataError)
        with path.open("rb") as file:
            head = file.read(4096)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    for mark, name in _UTF16_MARKS.items():
        require(
            not head.startswith(mark),
            f"{path} is {name} text: convert it with `iconv -f {name} -t UTF-8 {path.name} > utf8-{path.name}`",
            DataError,
        )
    require(
        b"\0" not in head,
        f"{path} contains zero bytes, so it is not UTF-8 text: if it is UTF-16, convert it with `iconv -f UTF-16LE -t"
        " UTF-8`",
        DataError,
    )


def iter_raw_lines(path: Path, newline: str | None = None) -> Iterator[str]:
    """Yield lines with their line ends, without a byte order mark at the start."""
    require_text_file(path)
    number = 0
    try:
        with path.open(encoding="utf-8-sig", newline=newline) as file:
            while line := file.readline(_LONGEST_FIELD + 1):
                number += 1
                if len(line) > _LONGEST_FIELD:
                    raise DataError(
                        f"{path}, line {number}: longer than {_LONGEST_FIELD:,} characters: give a prompt file"
                    )
                yield line
    except UnicodeDecodeError:
        _undecodable(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from None


def _undecodable(path: Path) -> NoReturn:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                byte = line[error.start]
                said = f"{path}, line {number}: byte 0x{byte:02x} is not UTF-8; if the file is Latin-1, "
                raise DataError(
                    f"{said}convert it with `iconv -f LATIN1 -t UTF-8 {path.name} > utf8-{path.name}`"
                ) from None
    raise DataError(f"{path} changed while it was read: try again")


def read_header(path: Path) -> list[str]:
    """Read the column names of a table, stripped and in lower case; pandas' nameless index column is ""."""
    for _, cells in _rows(path):
        names = [name.strip().lower() for name in cells]
        twice = sorted({name for name in names if name and names.count(name) > 1})
        require(not twice, f"{path}: column {twice[:1]} appears twice: rename one", DataError)
        return names
    raise DataError(f"{path} is empty: give a header line and a line for each prompt")


def read_table(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield (place, {column: cell}) of each row after the header, such as ("line 2", {...}); no blank lines."""
    header = read_header(path)
    width = len(header)
    rows = _rows(path)
    next(rows)
    for number, cells in rows:
        if len(cells) > width and not any(cell.strip() for cell in cells[width:]):
            cells = cells[:width]  # Spreadsheets write commas after the last column.
        if len(cells) != width:
            raise DataError(
                f"{path}, line {number}: {len(cells)} cells, but {width} columns: put prompts that contain commas in"
                " double quotes"
            )
        yield f"line {number}", dict(zip(header, cells, strict=True))


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(iter_raw_lines(path, newline=""), delimiter=_delimiter(path), strict=True)
    try:
        for cells in reader:
            if cells:
                yield reader.line_num, cells
    except csv.Error as error:
        raise DataError(
            f"{path}, line {reader.line_num}: {error}; close every double quote, and double those inside a cell"
        ) from None


def _delimiter(path: Path) -> str:
    """A tab in a .tsv file whose header has one, else a comma."""
    if path.suffix.lower() != ".tsv":
        return ","
    return "\t" if "\t" in next(iter_raw_lines(path), "") else ","


def read_json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield (place, element) of a file with one JSON element a line; blank lines are skipped."""
    for number, line in enumerate(iter_raw_lines(path), 1):
        if line.strip():
            try:
                yield f"line {number}", json.loads(line, object_pairs_hook=_once)
            except (ValueError, RecursionError) as error:
                reason = str(error) or "nested too deeply"
                raise DataError(f"{path}, line {number} is not JSON: {reason}; give one element a line") from None


def read_json_entries(path: Path) -> list[tuple[str, Any]]:
    """Read (place, element) of a JSON list, or (place, (key, value)) of an object, whose keys must be unique."""
    require_text_file(path)
    size = path.stat().st_size
    require(
        size <= _MOST_JSON_BYTES,
        f"{path} has {size:,} bytes, and a JSON file may have {_MOST_JSON_BYTES:,}: give a CSV file or one prompt a"
        " line",
        DataError,
    )
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_once)
    except UnicodeDecodeError:
        _undecodable(path)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: {str(error) or 'nested too deeply'}") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    if isinstance(data, dict):
        return [(f"key {key!r}", (key, value)) for key, value in data.items()]
    require(
        isinstance(data, list),
        f"{path} contains a single JSON {type(data).__name__}: give a list of prompts",
        DataError,
    )
    return [(f"entry {number}", element) for number, element in enumerate(data, 1)]


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        names = [key for key, _ in pairs]
        raise ValueError(f"key {next(name for name in names if names.count(name) > 1)!r} appears twice")
    return dict(pairs)
