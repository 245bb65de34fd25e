"""Results as a CSV table that a spreadsheet opens without running what is in it."""

import csv
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..core.errors import OutputError

Cell = str | int | float | None
FORMULA = tuple("=+-@\t\r\n＝＋－＠")  # what a spreadsheet may take for the start of a formula, full-width forms included
NUMBER = re.compile(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?")


def write_csv(path: Path | str, header: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
    """UTF-8, comma-separated. Numbers stay numbers, None is an empty cell, text that could be a formula gets a leading apostrophe."""
    try:
        with Path(path).open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([plain(name) for name in header])
            writer.writerows([plain(cell) for cell in row] for row in rows)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from None


def plain(cell: Cell) -> str:
    """The cell's text, defused: '=1+1' becomes an apostrophe and '=1+1'; -0.5 and '-0.5' stay as they are."""
    text = "" if cell is None else str(cell)
    return f"'{text}" if text.startswith(FORMULA) and not NUMBER.fullmatch(text) else text
