"""Read a prompt file of any known form: the form is seen from its header, or named."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..core.errors import DataError, require
from .entries import check_file, read_header, read_json, read_lines, read_table
from .forms import Form, Given, forms
from .sets import GROUPS, Group, Item, PromptSet

LIMIT = 100_000  # prompts a file may hold unless the caller says otherwise
TABLES = (".csv", ".tsv")
HUB_FOLDERS = ("target_image", "attack_robustness")  # HUB's files there end in .csv and are plain lines
COMMON = {"prompt", "evaluation_seed", "case_number"}  # columns of several forms: the others tell which it is
IDS = ("id", "case_number")  # columns that name a row: no two rows may share one


def load_prompts(path: Path | str, form: str | None = None, *, concept: str | None = None, group: Group | None = None, limit: int = LIMIT) -> PromptSet:
    """The file's questions under its name. See `read_prompts`; equal questions are numbered, so counts stay the file's."""
    path = Path(path)
    return PromptSet.of(path.stem, 1, read_prompts(path, form, concept=concept, group=group, limit=limit))


def read_prompts(path: Path | str, form: str | None = None, *, concept: str | None = None, group: Group | None = None, limit: int = LIMIT) -> Iterator[Item]:
    """Questions one by one, in the file's order, without holding them.

    `form` is a name in `forms`; None sees it from the header, the JSON's shape, or the file's ending. `concept` and
    `group` fill what the form leaves open. More than `limit` prompts, and anything that cannot be read, is a `DataError`
    that names file and line.
    """
    path = Path(path)
    require(limit > 0, f"limit {limit}: give a whole number from 1", DataError)
    require(group is None or group in GROUPS, f"group {group!r}: allowed are {', '.join(GROUPS)}", DataError)
    check_file(path)
    named = forms[form] if form else None
    is_json = named.kind == "json" if named else path.suffix.lower() == ".json"
    entries: Iterable[tuple[str, Any]] | None = read_json(path) if is_json else None
    known = named or _see(path, entries)
    message = f"{path}: form {known.name} names concepts and groups itself: leave out `concept` and `group`"
    require(known.open or (concept is None and group is None), message, DataError)
    if entries is None:
        entries = _table(path, known) if known.kind == "table" else ((f"line {n}", line) for n, line in enumerate(read_lines(path), 1))
    yield from _items(path, known, entries, Given(concept, group, path.stem), limit)


def _items(path: Path, known: Form, entries: Iterable[tuple[str, Any]], given: Given, limit: int) -> Iterator[Item]:
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
                f"{path} holds more than {limit:,} prompts: split it, or from Python give load_prompts a larger `limit`; the flag `--limit` does not raise it"
            )
        yield from found
    require(count > 0, f"{path} holds no prompts: give at least one", DataError)


def _see(path: Path, entries: Iterable[tuple[str, Any]] | None) -> Form:
    """The form by which to read a file that nobody named the form of."""
    if entries is not None:
        first = next((entry for _, entry in entries), None)
        if isinstance(first, tuple):
            return forms["erase-eval"]
        return forms["hub-selective" if isinstance(first, dict) and "nouns" in first else "list"]
    if path.parent.name in HUB_FOLDERS:
        return forms["hub-lines"]
    if path.suffix.lower() not in TABLES:
        return forms["lines"]
    header = read_header(path)
    fitting = [known for known in map(forms.__getitem__, forms) if known.kind == "table" and {*known.needs} <= {*header}]
    if not fitting:
        raise DataError(_columns(path, header, ("prompt",)) + "; a file with one prompt a line ends in .txt, or give form lines")
    return max(fitting, key=lambda known: (len({*known.needs} - COMMON), len(known.needs)))


def _table(path: Path, known: Form) -> Iterator[tuple[str, dict[str, str]]]:
    header = read_header(path)
    missing = [name for name in known.needs if name not in header]
    require(not missing, f"{_columns(path, header, known.needs)} (form {known.name})", DataError)
    names = [name for name in IDS if name in header]
    seen: dict[str, dict[str, str]] = {name: {} for name in names}
    for where, row in read_table(path):
        for name in names:
            cell = row[name].strip()
            if cell and (first := seen[name].setdefault(cell, where)) != where:
                raise DataError(f"{path}, {where}: {name} {cell!r} stands on {first} already: number the rows anew or drop the column")
        yield where, row


def _columns(path: Path, header: Sequence[str], needed: Sequence[str]) -> str:
    found = ", ".join(" ".join(name.split()) or '""' for name in header)[:200]
    wrong = next((f"; are columns separated by {mark!r}? Use commas" for mark in (";", "\t", "|") if len(header) == 1 and mark in header[0]), "")
    return f"{path}: columns found: {found}; needed: {', '.join(needed)}{wrong}"
