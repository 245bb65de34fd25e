"""The forms in which prompts are published, one reader each: from one entry of the file to its questions.

A reader gets a table's row, a line, or a JSON element, and what the caller says about the whole file; it fills with
that what the form leaves open. Columns that a form does not name are passed over.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal

from ..core.docstrings import summary_of
from ..core.errors import DataError, require
from ..core.registry import Registry
from .sets import PROMPT_GROUPS, PromptGroup, PromptItem

PromptFileKind = Literal["table", "lines", "json"]
_CsvRow = Mapping[str, str]
_SEED_COLUMNS = ("evaluation_seed", "sd_seed", "seed")
_GUIDANCE_COLUMNS = ("evaluation_guidance", "sd_guidance_scale", "guidance_scale", "guidance")
_HUB_LANGUAGES = ("spanish", "french", "german", "italian", "portuguese")
_CELEBRITY_TEMPLATES = (
    "A portrait of {}",
    "An image capturing {} at a public event",
    "An oil painting of {}",
    "A sketch of {}",
    "{} in an official photo",
)


@dataclass(frozen=True)
class PromptFileContext:
    """What is known of a file beside its entries."""

    concept: str | None
    """By the caller."""
    group: PromptGroup | None
    stem: str
    """The file's name without its ending; several benchmarks name files after concepts."""

    @property
    def about(self) -> str:
        """The concept, by the file's name if the caller said nothing."""
        return self.concept or self.stem.replace("_", " ")


_EntryReader = Callable[[Any, PromptFileContext], Iterable[PromptItem]]


@dataclass(frozen=True)
class PromptForm:
    """A row of the forms table."""

    name: str
    kind: PromptFileKind
    needs: tuple[str, ...]
    """Columns by which a table is seen to be of this form."""
    open: bool
    """Whether the caller may name concept and group."""
    most: int | None
    """Entries that the protocol takes from the start of a file."""
    read: _EntryReader
    summary: str


prompt_forms: Registry[PromptForm] = Registry("prompt form", plugin_group="unconcept.prompt_forms")


def prompt_form(
    name: str, kind: PromptFileKind, needs: tuple[str, ...] = (), open: bool = True, most: int | None = None
) -> Callable[[_EntryReader], _EntryReader]:
    """Register a reader under the name users type."""

    def put(read: _EntryReader) -> _EntryReader:
        summary = summary_of(read)
        prompt_forms.register(name)(PromptForm(name, kind, needs, open, most, read, summary))
        return read

    return put


@prompt_form("i2p", "table", ("prompt", "categories", "inappropriate_percentage"))
def read_i2p(row: _CsvRow, given: PromptFileContext) -> Iterable[PromptItem]:
    """I2P and its subsets, also UnlearnDiffAtk's of it: seed and guidance a row; the category becomes the tag."""
    category = row["categories"].strip()
    yield _item(row, given.concept or category, given.group or "indirect", category)


@prompt_form("unlearndiffatk", "table", ("prompt", "case_number", "evaluation_seed"))
def read_unlearndiffatk(row: _CsvRow, given: PromptFileContext) -> Iterable[PromptItem]:
    """UnlearnDiffAtk's prompts of a concept, also ESD's; the concept is the column `class` or the file's name."""
    yield _item(row, given.concept or row.get("class", "").strip() or given.about, given.group or "direct")


@prompt_form("coco", "table", ("prompt", "coco_id"))
def read_coco(row: _CsvRow, given: PromptFileContext) -> Iterable[PromptItem]:
    """COCO captions with a seed each, as MACE and ESD publish them: far prompts about nothing in particular."""
    yield _item(row, given.concept or "", given.group or "far")


@prompt_form("mace", "table", ("type", "prompt", "evaluation_seed"), open=False)
def read_mace(row: _CsvRow, given: PromptFileContext) -> Iterable[PromptItem]:
    """MACE's celebrities and artists: the erased ones are direct, the others near.

    Artists have types 0 and 1; that 0 is erased is (inferred) from the erased ones coming first in all files.
    """
    kind = _kind(row, {"erased": "direct", "0": "direct", "others": "near", "1": "near"})
    artist = row.get("artist", "").strip()
    yield _item(row, artist or _celebrity(row["prompt"].strip()), kind)


@prompt_form("speed", "table", ("type", "concept", "prompt"), open=False)
def read_speed(row: _CsvRow, given: PromptFileContext) -> Iterable[PromptItem]:
    """SPEED's celebrities: type erase is direct, retain is near. That prompts stand in `prompt` is (inferred)."""
    yield _item(row, row["concept"].strip(), _kind(row, {"erase": "direct", "retain": "near"}))


@prompt_form("hub-lines", "lines")
def read_hub_lines(line: str, given: PromptFileContext) -> Iterable[PromptItem]:
    """HUB's target_image and attack_robustness: one prompt a line, some in double quotes; the file's name is the
    concept.

    Differs: HUB draws with the quotes and the line's end as part of the prompt.
    """
    text = line.strip()
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = text[1:-1].replace('""', '"').strip()
    if text:
        yield PromptItem(text, given.about, given.group or "direct")


@prompt_form("hub-languages", "table", ("original", *_HUB_LANGUAGES))
def read_hub_languages(row: _CsvRow, given: PromptFileContext) -> Iterable[PromptItem]:
    """HUB's multilingual_robustness: five translations of each prompt, the language as tag; the English one is
    target_image's.
    """
    for language in _HUB_LANGUAGES:
        yield PromptItem(row[language].strip(), given.about, given.group or "other-language", tag=language)


@prompt_form("hub-pinpoint", "table", ("noun", "similarity"), open=False, most=100)
def read_hub_pinpoint(row: _CsvRow, given: PromptFileContext) -> Iterable[PromptItem]:
    """HUB's pinpoint_ness: the nouns nearest to a concept, which shall still be drawn; the first 100 of a file."""
    noun = row["noun"].strip()
    yield PromptItem(f"a photo of {noun}", noun.replace("_", " "), "near", tag=given.stem)


@prompt_form("hub-selective", "json", ("prompt", "nouns"))
def read_hub_selective(entry: object, given: PromptFileContext) -> Iterable[PromptItem]:
    """HUB's selective_alignment: target prompts and the other things in them, asked for one by one."""
    fields = _object(entry)
    nouns = fields.get("nouns")
    if not (isinstance(nouns, list) and all(isinstance(noun, str) for noun in nouns)):
        raise DataError(f"nouns {str(nouns)[:40]!r}: give a list of texts")
    for noun in dict.fromkeys(noun.strip() for noun in nouns if noun.strip()):
        yield PromptItem(_text(fields, "prompt"), noun, given.group or "co-occurring", tag=given.about)


@prompt_form("erase-eval", "json")
def read_erase_eval(entry: object, given: PromptFileContext) -> Iterable[PromptItem]:
    """EraseEval's cache, {concept: prompt}: protocol1.json is direct, protocol2.json indirect, or {concept: {explicit,
    implicit}}.
    """
    if not isinstance(entry, tuple):
        raise DataError("EraseEval's cache is an object {concept: prompt}, not a list")
    concept, value = entry
    if isinstance(value, dict):
        sides: tuple[tuple[str, PromptGroup], ...] = (("explicit", "direct"), ("implicit", "indirect"))
        found = [(_text(value, side), group) for side, group in sides if side in value]
        require(bool(found), f"keys {', '.join(value)}: needed are explicit, implicit, or both", DataError)
    else:
        stems: dict[str, PromptGroup] = {"protocol1": "direct", "protocol2": "indirect"}
        group = given.group or stems.get(given.stem)
        require(
            group is not None,
            "the file does not say its group: name it protocol1.json or protocol2.json, or give group direct or"
            " indirect",
            DataError,
        )
        found = [(_text({"prompt": value}, "prompt"), group or "direct")]
    for text, group in found:
        yield PromptItem(text, concept.strip(), group)


@prompt_form("table", "table", ("prompt",))
def read_own_table(row: _CsvRow, given: PromptFileContext) -> Iterable[PromptItem]:
    """A CSV table of your own: column prompt, and if you like concept, group, seed, guidance_scale, tag, id."""
    group = row.get("group", "").strip() or given.group or "direct"
    yield _item(row, row.get("concept", "").strip() or given.concept or "", _group(group), row.get("tag", "").strip())


@prompt_form("list", "json")
def read_own_list(entry: object, given: PromptFileContext) -> Iterable[PromptItem]:
    """A JSON list of your own: texts, or objects with the columns of a table as keys."""
    if isinstance(entry, str):
        yield PromptItem(entry.strip(), given.concept or "", given.group or "direct")
        return
    fields = _object(entry)
    _text(fields, "prompt")
    for key in ("seed", "guidance_scale"):
        allowed = int if key == "seed" else (int, float)
        value = fields.get(key)
        require(
            value is None or (isinstance(value, allowed) and not isinstance(value, bool)),
            f"{key} {value!r}: give a number without quotes",
            DataError,
        )
    yield from read_own_table({key: "" if value is None else str(value) for key, value in fields.items()}, given)


@prompt_form("lines", "lines")
def read_own_lines(line: str, given: PromptFileContext) -> Iterable[PromptItem]:
    """Plain text, one prompt a line; blank lines and lines that start with # are passed over."""
    text = line.strip()
    if text and not text.startswith("#"):
        yield PromptItem(text, given.concept or "", given.group or "direct")


def _item(row: _CsvRow, concept: str, group: PromptGroup, tag: str = "") -> PromptItem:
    return PromptItem(row["prompt"].strip(), concept, group, _seed(row), _guidance(row), tag=tag)


def _cell(row: _CsvRow, names: tuple[str, ...]) -> str:
    """The cell in one of these columns; two that are filled must agree."""
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


def _seed(row: _CsvRow) -> int | None:
    cell = _cell(row, _SEED_COLUMNS)
    if not cell:
        return None
    if not (cell.isascii() and cell.isdigit() and len(cell) < 20):
        raise DataError(f"seed {cell[:40]!r}: give a whole number from 0 to 2**63 - 1, such as 42")
    return int(cell)


def _guidance(row: _CsvRow) -> float | None:
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


def _group(name: str) -> PromptGroup:
    for group in PROMPT_GROUPS:
        if name == group:
            return group
    raise DataError(f"group {name!r}: allowed are {', '.join(PROMPT_GROUPS)}")


def _kind(row: _CsvRow, known: dict[str, PromptGroup]) -> PromptGroup:
    name = row["type"].strip().lower()
    require(name in known, f"type {name!r}: allowed are {', '.join(known)}", DataError)
    return known[name]


def _celebrity(prompt: str) -> str:
    """The name in one of MACE's five templates."""
    for template in _CELEBRITY_TEMPLATES:
        before, after = template.split("{}")
        if prompt.startswith(before) and prompt.endswith(after) and len(prompt) > len(before) + len(after):
            return prompt[len(before) : len(prompt) - len(after)]
    raise DataError(f"no name in {prompt!r}: MACE's templates are {'; '.join(_CELEBRITY_TEMPLATES)}")


def _object(entry: object) -> dict[str, object]:
    if not isinstance(entry, dict):
        raise DataError(f"{str(entry)[:40]!r} is no object with a key `prompt`")
    return entry


def _text(fields: dict[str, object], key: str) -> str:
    value = fields.get(key)
    if not isinstance(value, str):
        raise DataError(f"{key} {str(value)[:40]!r}: give a text; keys found: {', '.join(fields)}")
    return value.strip()
