"""Writes results as CSV that is safe to open in a spreadsheet: no cell can run as a formula."""

import csv
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..core.errors import OutputError

CsvCell = str | int | float | None
# What a spreadsheet may take for the start of a formula, full-width forms included.
_FORMULA_STARTS = tuple("=+-@\t\r\n＝＋－＠")
_NUMBER_PATTERN = re.compile(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?")


def write_csv(path: Path | str, header: Sequence[str], rows: Iterable[Sequence[CsvCell]]) -> None:
    """Write a CSV file, UTF-8, separated by commas.

    Numbers stay numbers, None is an empty cell, text that could be a formula gets a leading apostrophe.
    """
    try:
        with Path(path).open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            for row in (header, *rows):
                writer.writerow([escape_cell(cell) for cell in row])
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}; choose another path") from None


def escape_cell(cell: CsvCell) -> str:
    """The cell's text, made safe: =1+1 gets a leading apostrophe; numbers like -0.5 stay as they are."""
    text = "" if cell is None else str(cell)
    return f"'{text}" if text.startswith(_FORMULA_STARTS) and not _NUMBER_PATTERN.fullmatch(text) else text
