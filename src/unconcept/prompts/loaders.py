"""Reads prompt files of any known form. The caller names the form, or the header shows it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..core.errors import DataError, require
from .entries import (
    iter_raw_lines,
    read_header,
    read_json_entries,
    read_json_lines,
    read_table,
    require_text_file,
)
from .forms import PromptFileContext, PromptForm, prompt_forms
from .sets import PROMPT_GROUPS, PromptGroup, PromptItem, PromptSet

_MOST_PROMPTS = 100_000  # default limit of prompts in a file
_TABLE_SUFFIXES = (".csv", ".tsv")
_HUB_FOLDERS = ("target_image", "attack_robustness")  # HUB's files there end in .csv and are plain lines
# Columns that several forms share, so that they do not identify a form.
_AMBIGUOUS_COLUMNS = {"prompt", "evaluation_seed", "case_number"}
_ID_COLUMN = "id"  # names a row: no two rows may share one


@dataclass
class ReadingTally:
    """What a reader passed over."""

    empty: int = 0
    """Rows whose prompt is blank."""


def load_prompts(
    path: Path | str,
    form: str | None = None,
    *,
    concept: str | None = None,
    group: PromptGroup | None = None,
    limit: int = _MOST_PROMPTS,
) -> PromptSet:
    """Load a prompt file as a `PromptSet` with the file's name.

    See `read_prompts` for the arguments. Equal items are numbered, so that none is lost.
    """
    path, tally = Path(path), ReadingTally()
    found = read_prompts(path, form, concept=concept, group=group, limit=limit, tally=tally)
    return replace(PromptSet.of(path.stem, 1, found), empty_rows=tally.empty)


def read_prompts(
    path: Path | str,
    form: str | None = None,
    *,
    concept: str | None = None,
    group: PromptGroup | None = None,
    limit: int = _MOST_PROMPTS,
    tally: ReadingTally | None = None,
) -> Iterator[PromptItem]:
    """Yield the items of a prompt file one by one, in the file's order.

    `form` is a name in `prompt_forms`; None detects it from the header, the structure of the JSON, or the suffix.
    `concept` and `group` fill in what a row leaves open: what it says itself wins. Rows without a prompt are passed
    over and counted in `tally`. More than `limit` prompts, or anything unreadable, raises a `DataError` that names file
    and line.
    """
    path = Path(path)
    require(limit > 0, f"limit {limit}: give a whole number from 1", DataError)
    require(
        group is None or group in PROMPT_GROUPS, f"group {group!r}: allowed are {', '.join(PROMPT_GROUPS)}", DataError
    )
    require_text_file(path)
    named = prompt_forms[form] if form else None
    suffix = path.suffix.lower()
    entries: Iterable[tuple[str, Any]] | None = None
    if named.kind == "json" if named else suffix in (".json", ".jsonl"):
        entries = list(read_json_lines(path)) if suffix == ".jsonl" else read_json_entries(path)
    known = named or _see(path, entries)
    message = f"{path}: form {known.name} contains groups itself: leave out `group`"
    require(known.open or group is None, message, DataError)
    if entries is None:
        entries = (
            _table(path, known)
            if known.kind == "table"
            else ((f"line {n}", line) for n, line in enumerate(iter_raw_lines(path), 1))
        )
    filled = _without_empty(entries, tally or ReadingTally())
    yield from _items(path, known, filled, PromptFileContext(concept, group, path.stem), limit)


def _without_empty(entries: Iterable[tuple[str, Any]], tally: ReadingTally) -> Iterator[tuple[str, Any]]:
    """Yield the entries of a table or a JSON file that have a prompt; blank lines of plain text are not counted."""
    for where, entry in entries:
        if _has_no_prompt(entry):
            tally.empty += 1
        else:
            yield where, entry


def _has_no_prompt(entry: object) -> bool:
    """Whether a row, an element or a value is blank, or its prompt is."""
    if isinstance(entry, tuple):
        return _is_blank(entry[1])
    if isinstance(entry, dict):
        return _is_blank(entry.get("prompt")) or (bool(entry) and all(map(_is_blank, entry.values())))
    return entry == ""


def _is_blank(value: object) -> bool:
    return isinstance(value, str) and not value.strip()


def _items(
    path: Path, known: PromptForm, entries: Iterable[tuple[str, Any]], given: PromptFileContext, limit: int
) -> Iterator[PromptItem]:
    count = 0
    for number, (where, entry) in enumerate(entries, 1):
        if known.most is not None and number > known.most:
            break
        try:
            found = list(known.read(entry, given))
        except DataError as error:
            raise DataError(f"{path}, {where}: {' '.join(str(error).split())}") from None
        count += len(found)
        if count > limit:
            raise DataError(
                f"{path} contains more than {limit:,} prompts: split it, or from Python give load_prompts a larger"
                " `limit`; the flag `--limit` does not raise it"
            )
        yield from found
    require(count > 0, f"{path} contains no prompts: give at least one", DataError)


def _see(path: Path, entries: Iterable[tuple[str, Any]] | None) -> PromptForm:
    """Detect the form of a prompt file."""
    if entries is not None:
        first = next((entry for _, entry in entries), None)
        if isinstance(first, tuple):
            return prompt_forms["erase-eval"]
        return prompt_forms["hub-selective" if isinstance(first, dict) and "nouns" in first else "list"]
    if path.parent.name in _HUB_FOLDERS:
        return prompt_forms["hub-lines"]
    if path.suffix.lower() not in _TABLE_SUFFIXES:
        return prompt_forms["lines"]
    header = read_header(path)
    fitting = [
        known
        for known in map(prompt_forms.__getitem__, prompt_forms)
        if known.kind == "table" and {*known.needs} <= {*header}
    ]
    if not fitting:
        raise DataError(
            _columns(path, header, ("prompt",)) + "; for one prompt a line, name the file .txt or give form lines"
        )
    return max(fitting, key=lambda known: (len({*known.needs} - _AMBIGUOUS_COLUMNS), len(known.needs)))


def _table(path: Path, known: PromptForm) -> Iterator[tuple[str, dict[str, str]]]:
    header = read_header(path)
    missing = [name for name in known.needs if name not in header]
    require(not missing, f"{_columns(path, header, known.needs)} (form {known.name})", DataError)
    seen: dict[str, str] = {}
    for where, row in read_table(path):
        cell = row.get(_ID_COLUMN, "").strip()
        if cell and (first := seen.setdefault(cell, where)) != where:
            raise DataError(
                f"{path}, {where}: {_ID_COLUMN} {cell!r} is also on {first}: number the rows anew or remove the column"
            )
        yield where, row


def _columns(path: Path, header: Sequence[str], needed: Sequence[str]) -> str:
    found = ", ".join(" ".join(name.split()) or '""' for name in header)[:200]
    wrong = next(
        (
            f"; if {mark!r} separates the columns, use commas instead"
            for mark in (";", "\t", "|")
            if len(header) == 1 and mark in header[0]
        ),
        "",
    )
    return f"{path}: the columns are {found}; needed: {', '.join(needed)}{wrong}"
