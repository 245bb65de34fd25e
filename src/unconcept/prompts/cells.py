"""Reads the cells of a row and the fields of a JSON object: prompt, concept, group, seed, guidance scale."""

from collections.abc import Mapping
from math import isfinite

from ..core.errors import DataError
from .sets import FILE_GROUPS, PromptGroup, PromptItem

CsvRow = Mapping[str, str]
_SEED_COLUMNS = ("evaluation_seed", "sd_seed", "seed")
_GUIDANCE_COLUMNS = ("evaluation_guidance", "sd_guidance_scale", "guidance_scale", "guidance")
# Columns that name what a row's prompt is about, as the authors of published files call them. The first counts.
CONCEPT_COLUMNS = (
    "concept",
    "artist",
    "class",
    "classname",
    "label_str",
    "object",
    "style",
    "celebrity",
    "character",
    "profession",
    "target",
)


def item_of_row(row: CsvRow, concept: str, group: PromptGroup, tag: str = "") -> PromptItem:
    """The item of a row with a column prompt, with its seed and guidance scale if it has them."""
    return PromptItem(row["prompt"].strip(), concept, group, _seed(row), _guidance(row), tag=tag)


def own_concept(row: CsvRow) -> str:
    """What the row itself says that its prompt is about; "" if it does not say it."""
    return next((row[name].strip() for name in CONCEPT_COLUMNS if row.get(name, "").strip()), "")


def _cell(row: CsvRow, names: tuple[str, ...]) -> str:
    """The cell in one of these columns; if several are filled, they must agree."""
    value = ""
    for name in names:
        cell = row.get(name, "").strip()
        if cell and value and cell != value:
            raise DataError(
                f"columns {', '.join(name for name in names if name in row)} disagree: {value[:40]!r} and"
                f" {cell[:40]!r}; keep one"
            )
        value = value or cell
    return value


def _seed(row: CsvRow) -> int | None:
    cell = _cell(row, _SEED_COLUMNS)
    if not cell:
        return None
    if not (cell.isascii() and cell.isdigit() and len(cell) < 20):
        raise DataError(f"seed {cell[:40]!r}: give a whole number from 0 to 2**63 - 1, such as 42")
    return int(cell)


def _guidance(row: CsvRow) -> float | None:
    cell = _cell(row, _GUIDANCE_COLUMNS)
    if not cell:
        return None
    try:
        value = float(cell)
    except ValueError:
        value = float("nan")
    if not isfinite(value) or "_" in cell:
        raise DataError(f"guidance scale {cell[:40]!r}: give a number, such as 7.5")
    return value


def prompt_group(name: str) -> PromptGroup:
    """The group of a name; `DataError` for another name."""
    for group in FILE_GROUPS:
        if name == group:
            return group
    raise DataError(f"group {name!r}: allowed are {', '.join(FILE_GROUPS)}")


def json_object(entry: object) -> dict[str, object]:
    """The entry as an object; `DataError` if it is another value."""
    if not isinstance(entry, dict):
        raise DataError(f"{str(entry)[:40]!r} is not an object: give one with a key `prompt`")
    return entry


def text_field(fields: dict[str, object], key: str) -> str:
    """The stripped text under a key; `DataError` if it is no string."""
    value = fields.get(key)
    if not isinstance(value, str):
        raise DataError(f"{key} {str(value)[:40]!r}: give a string; the keys are {', '.join(fields)}")
    return value.strip()
