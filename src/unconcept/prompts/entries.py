"""Entries of text files: rows of a CSV table, lines, elements of JSON.

Bad files give one line that says how to mend them.

Tables and lines are streamed, so memory does not grow with the file; JSON is read whole, up to `_MOST_JSON_BYTES`.
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
        f"{path} holds zero bytes, so it is no UTF-8 text: convert it with `iconv -f UTF-16LE -t UTF-8`, if it is text"
        " at all",
        DataError,
    )


def iter_raw_lines(path: Path, newline: str | None = None) -> Iterator[str]:
    """Lines with their ends. A UTF-8 mark at the start is passed over."""
    require_text_file(path)
    number = 0
    try:
        with path.open(encoding="utf-8-sig", newline=newline) as file:
            while line := file.readline(_LONGEST_FIELD + 1):
                number += 1
                if len(line) > _LONGEST_FIELD:
                    raise DataError(
                        f"{path}, line {number}: longer than {_LONGEST_FIELD:,} characters: is this a prompt file?"
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
                said = f"{path}, line {number}: byte 0x{byte:02x} is no UTF-8; if the file is Latin-1, "
                raise DataError(
                    f"{said}convert it with `iconv -f LATIN1 -t UTF-8 {path.name} > utf8-{path.name}`"
                ) from None
    raise DataError(f"{path} changed while it was read: try again")


def read_header(path: Path) -> list[str]:
    """Column names of a table, lower-cased, without blanks around them; pandas' nameless index column is ""."""
    for _, cells in _rows(path):
        names = [name.strip().lower() for name in cells]
        twice = sorted({name for name in names if name and names.count(name) > 1})
        require(not twice, f"{path}: column {twice[:1]} stands twice: rename one", DataError)
        return names
    raise DataError(f"{path} is empty: give a header line and a line for each prompt")


def read_table(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """(Where it stands, {column: cell}) of each row after the header; blank lines are passed over."""
    header = read_header(path)
    width = len(header)
    rows = _rows(path)
    next(rows)
    for number, cells in rows:
        if len(cells) != width:
            raise DataError(
                f"{path}, line {number}: {len(cells)} cells, but {width} columns: put prompts that hold commas in"
                " double quotes"
            )
        yield f"line {number}", dict(zip(header, cells, strict=True))


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(iter_raw_lines(path, newline=""), strict=True)
    try:
        for cells in reader:
            if cells:
                yield reader.line_num, cells
    except csv.Error as error:
        raise DataError(
            f"{path}, line {reader.line_num}: {error}; is a double quote open, or not doubled inside a cell?"
        ) from None


def read_json_entries(path: Path) -> list[tuple[str, Any]]:
    """(Where it stands, element) of a list, or (where, (key, value)) of an object; a key may stand once."""
    require_text_file(path)
    size = path.stat().st_size
    require(
        size <= _MOST_JSON_BYTES,
        f"{path} has {size:,} bytes: JSON is read whole, up to {_MOST_JSON_BYTES:,}; give a CSV file or one prompt a"
        " line",
        DataError,
    )
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_once)
    except UnicodeDecodeError:
        _undecodable(path)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no JSON: {str(error) or 'nested too deep'}") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    if isinstance(data, dict):
        return [(f"key {key!r}", (key, value)) for key, value in data.items()]
    require(
        isinstance(data, list), f"{path} holds a single JSON {type(data).__name__}: give a list of prompts", DataError
    )
    return [(f"entry {number}", element) for number, element in enumerate(data, 1)]


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        names = [key for key, _ in pairs]
        raise ValueError(f"key {next(name for name in names if names.count(name) > 1)!r} stands twice")
    return dict(pairs)
