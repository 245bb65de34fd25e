"""Reads prompt files of any known form. The caller names the form, or the header shows it."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..core.errors import DataError, require
from .entries import iter_raw_lines, read_header, read_json_entries, read_table, require_text_file
from .forms import PromptFileContext, PromptForm, prompt_forms
from .sets import PROMPT_GROUPS, PromptGroup, PromptItem, PromptSet

_MOST_PROMPTS = 100_000  # default limit of prompts in a file
_TABLE_SUFFIXES = (".csv", ".tsv")
_HUB_FOLDERS = ("target_image", "attack_robustness")  # HUB's files there end in .csv and are plain lines
# Columns that several forms share, so that they do not identify a form.
_AMBIGUOUS_COLUMNS = {"prompt", "evaluation_seed", "case_number"}
_ID_COLUMNS = ("id", "case_number")  # columns that name a row: no two rows may share one


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
    path = Path(path)
    return PromptSet.of(path.stem, 1, read_prompts(path, form, concept=concept, group=group, limit=limit))


def read_prompts(
    path: Path | str,
    form: str | None = None,
    *,
    concept: str | None = None,
    group: PromptGroup | None = None,
    limit: int = _MOST_PROMPTS,
) -> Iterator[PromptItem]:
    """Yield the items of a prompt file one by one, in the file's order.

    `form` is a name in `prompt_forms`; None detects it from the header, the structure of the JSON, or the suffix.
    `concept` and `group` fill in what the form leaves open. More than `limit` prompts, or anything unreadable, raises a
    `DataError` that names file and line.
    """
    path = Path(path)
    require(limit > 0, f"limit {limit}: give a whole number from 1", DataError)
    require(
        group is None or group in PROMPT_GROUPS, f"group {group!r}: allowed are {', '.join(PROMPT_GROUPS)}", DataError
    )
    require_text_file(path)
    named = prompt_forms[form] if form else None
    is_json = named.kind == "json" if named else path.suffix.lower() == ".json"
    entries: Iterable[tuple[str, Any]] | None = read_json_entries(path) if is_json else None
    known = named or _see(path, entries)
    message = f"{path}: form {known.name} contains concepts and groups itself: leave out `concept` and `group`"
    require(known.open or (concept is None and group is None), message, DataError)
    if entries is None:
        entries = (
            _table(path, known)
            if known.kind == "table"
            else ((f"line {n}", line) for n, line in enumerate(iter_raw_lines(path), 1))
        )
    yield from _items(path, known, entries, PromptFileContext(concept, group, path.stem), limit)


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
    names = [name for name in _ID_COLUMNS if name in header]
    seen: dict[str, dict[str, str]] = {name: {} for name in names}
    for where, row in read_table(path):
        for name in names:
            cell = row[name].strip()
            if cell and (first := seen[name].setdefault(cell, where)) != where:
                raise DataError(
                    f"{path}, {where}: {name} {cell!r} is also on {first}: number the rows anew or remove the column"
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
