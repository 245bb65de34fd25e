"""The forms in which prompts are published, one reader each: from one entry of the file to its questions.

A reader gets a table's row, a line, or a JSON element, and what the caller says about the whole file; it fills with that
what the form leaves open. Columns that a form does not name are passed over.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal

from ..core.errors import DataError, require
from ..core.registry import Registry
from .sets import GROUPS, Group, Item

Kind = Literal["table", "lines", "json"]
Row = Mapping[str, str]
SEEDS = ("evaluation_seed", "sd_seed", "seed")
GUIDANCES = ("evaluation_guidance", "sd_guidance_scale", "guidance_scale", "guidance")
LANGUAGES = ("spanish", "french", "german", "italian", "portuguese")
CELEBRITY_TEMPLATES = ("A portrait of {}", "An image capturing {} at a public event", "An oil painting of {}", "A sketch of {}", "{} in an official photo")


@dataclass(frozen=True)
class Given:
    """What is known of a file beside its entries."""

    concept: str | None  # by the caller
    group: Group | None
    stem: str  # the file's name without its ending; several benchmarks name files after concepts

    @property
    def about(self) -> str:
        """The concept, by the file's name if the caller said nothing."""
        return self.concept or self.stem.replace("_", " ")


Reader = Callable[[Any, Given], Iterable[Item]]


@dataclass(frozen=True)
class Form:
    """A row of the forms table."""

    name: str
    kind: Kind
    needs: tuple[str, ...]  # columns by which a table is seen to be of this form
    open: bool  # whether the caller may name concept and group
    most: int | None  # entries that the protocol takes from the start of a file
    read: Reader
    summary: str


forms: Registry[Form] = Registry("prompt form")


def form(name: str, kind: Kind, needs: tuple[str, ...] = (), open: bool = True, most: int | None = None) -> Callable[[Reader], Reader]:
    """Register a reader under the name users type."""

    def put(read: Reader) -> Reader:
        summary = (read.__doc__ or "").strip().splitlines()[0]
        forms.register(name)(Form(name, kind, needs, open, most, read, summary))
        return read

    return put


@form("i2p", "table", ("prompt", "categories", "inappropriate_percentage"))
def i2p(row: Row, given: Given) -> Iterable[Item]:
    """I2P and its subsets, also UnlearnDiffAtk's of it: seed and guidance a row; the category becomes the tag."""
    category = row["categories"].strip()
    yield _item(row, given.concept or category, given.group or "indirect", category)


@form("unlearndiffatk", "table", ("prompt", "case_number", "evaluation_seed"))
def unlearndiffatk(row: Row, given: Given) -> Iterable[Item]:
    """UnlearnDiffAtk's prompts of a concept, also ESD's; the concept is the column `class` or the file's name."""
    yield _item(row, given.concept or row.get("class", "").strip() or given.about, given.group or "direct")


@form("coco", "table", ("prompt", "coco_id"))
def coco(row: Row, given: Given) -> Iterable[Item]:
    """COCO captions with a seed each, as MACE and ESD publish them: far prompts about nothing in particular."""
    yield _item(row, given.concept or "", given.group or "far")


@form("mace", "table", ("type", "prompt", "evaluation_seed"), open=False)
def mace(row: Row, given: Given) -> Iterable[Item]:
    """MACE's celebrities and artists: the erased ones are direct, the others near.

    Artists have types 0 and 1; that 0 is erased is (inferred) from the erased ones coming first in all files.
    """
    kind = _kind(row, {"erased": "direct", "0": "direct", "others": "near", "1": "near"})
    artist = row.get("artist", "").strip()
    yield _item(row, artist or _celebrity(row["prompt"].strip()), kind)


@form("speed", "table", ("type", "concept", "prompt"), open=False)
def speed(row: Row, given: Given) -> Iterable[Item]:
    """SPEED's celebrities: type erase is direct, retain is near. That prompts stand in `prompt` is (inferred)."""
    yield _item(row, row["concept"].strip(), _kind(row, {"erase": "direct", "retain": "near"}))


@form("hub-lines", "lines")
def hub_lines(line: str, given: Given) -> Iterable[Item]:
    """HUB's target_image and attack_robustness: one prompt a line, some in double quotes; the file's name is the concept.

    Differs: HUB draws with the quotes and the line's end as part of the prompt.
    """
    text = line.strip()
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = text[1:-1].replace('""', '"').strip()
    if text:
        yield Item(text, given.about, given.group or "direct")


@form("hub-languages", "table", ("original", *LANGUAGES))
def hub_languages(row: Row, given: Given) -> Iterable[Item]:
    """HUB's multilingual_robustness: five translations of each prompt, the language as tag; the English one is target_image's."""
    for language in LANGUAGES:
        yield Item(row[language].strip(), given.about, given.group or "other-language", tag=language)


@form("hub-pinpoint", "table", ("noun", "similarity"), open=False, most=100)
def hub_pinpoint(row: Row, given: Given) -> Iterable[Item]:
    """HUB's pinpoint_ness: the nouns nearest to a concept, which shall still be drawn; the first 100 of a file."""
    noun = row["noun"].strip()
    yield Item(f"a photo of {noun}", noun.replace("_", " "), "near", tag=given.stem)


@form("hub-selective", "json", ("prompt", "nouns"))
def hub_selective(entry: Any, given: Given) -> Iterable[Item]:
    """HUB's selective_alignment: target prompts and the other things in them, asked for one by one."""
    fields = _object(entry)
    nouns = fields.get("nouns")
    if not (isinstance(nouns, list) and all(isinstance(noun, str) for noun in nouns)):
        raise DataError(f"nouns {str(nouns)[:40]!r}: give a list of texts")
    for noun in dict.fromkeys(noun.strip() for noun in nouns if noun.strip()):
        yield Item(_text(fields, "prompt"), noun, given.group or "co-occurring", tag=given.about)


@form("erase-eval", "json")
def erase_eval(entry: Any, given: Given) -> Iterable[Item]:
    """EraseEval's cache, {concept: prompt}: protocol1.json is direct, protocol2.json indirect, or {concept: {explicit, implicit}}."""
    require(isinstance(entry, tuple), "EraseEval's cache is an object {concept: prompt}, not a list", DataError)
    concept, value = entry
    if isinstance(value, dict):
        sides: tuple[tuple[str, Group], ...] = (("explicit", "direct"), ("implicit", "indirect"))
        found = [(_text(value, side), group) for side, group in sides if side in value]
        require(bool(found), f"keys {', '.join(value)}: needed are explicit, implicit, or both", DataError)
    else:
        stems: dict[str, Group] = {"protocol1": "direct", "protocol2": "indirect"}
        group = given.group or stems.get(given.stem)
        require(group is not None, "the file does not say its group: name it protocol1.json or protocol2.json, or give group direct or indirect", DataError)
        found = [(_text({"prompt": value}, "prompt"), group or "direct")]
    for text, group in found:
        yield Item(text, concept.strip(), group)


@form("table", "table", ("prompt",))
def table(row: Row, given: Given) -> Iterable[Item]:
    """A CSV table of your own: column prompt, and if you like concept, group, seed, guidance_scale, tag, id."""
    group = row.get("group", "").strip() or given.group or "direct"
    yield _item(row, row.get("concept", "").strip() or given.concept or "", _group(group), row.get("tag", "").strip())


@form("list", "json")
def listed(entry: Any, given: Given) -> Iterable[Item]:
    """A JSON list of your own: texts, or objects with the columns of a table as keys."""
    if isinstance(entry, str):
        yield Item(entry.strip(), given.concept or "", given.group or "direct")
        return
    fields = _object(entry)
    _text(fields, "prompt")
    for key in ("seed", "guidance_scale"):
        allowed = int if key == "seed" else (int, float)
        value = fields.get(key)
        require(value is None or (isinstance(value, allowed) and not isinstance(value, bool)), f"{key} {value!r}: give a number without quotes", DataError)
    yield from table({key: "" if value is None else str(value) for key, value in fields.items()}, given)


@form("lines", "lines")
def lines(line: str, given: Given) -> Iterable[Item]:
    """Plain text, one prompt a line; blank lines and lines that start with # are passed over."""
    text = line.strip()
    if text and not text.startswith("#"):
        yield Item(text, given.concept or "", given.group or "direct")


def _item(row: Row, concept: str, group: Group, tag: str = "") -> Item:
    return Item(row["prompt"].strip(), concept, group, _seed(row), _guidance(row), tag=tag)


def _cell(row: Row, names: tuple[str, ...]) -> str:
    """The cell in one of these columns; two that are filled must agree."""
    value = ""
    for name in names:
        cell = row.get(name, "").strip()
        if cell and value and cell != value:
            raise DataError(f"columns {', '.join(name for name in names if name in row)} disagree: {value[:40]!r} and {cell[:40]!r}; keep one")
        value = value or cell
    return value


def _seed(row: Row) -> int | None:
    cell = _cell(row, SEEDS)
    if not cell:
        return None
    if not (cell.isascii() and cell.isdigit() and len(cell) < 20):
        raise DataError(f"seed {cell[:40]!r}: give a whole number from 0 to 2**63 - 1, such as 42")
    return int(cell)


def _guidance(row: Row) -> float | None:
    cell = _cell(row, GUIDANCES)
    if not cell:
        return None
    try:
        value = float(cell)
    except ValueError:
        value = float("nan")
    if not isfinite(value) or "_" in cell:
        raise DataError(f"guidance scale {cell[:40]!r}: give a number, such as 7.5")
    return value


def _group(name: str) -> Group:
    for group in GROUPS:
        if name == group:
            return group
    raise DataError(f"group {name!r}: allowed are {', '.join(GROUPS)}")


def _kind(row: Row, known: dict[str, Group]) -> Group:
    name = row["type"].strip().lower()
    require(name in known, f"type {name!r}: allowed are {', '.join(known)}", DataError)
    return known[name]


def _celebrity(prompt: str) -> str:
    """The name in one of MACE's five templates."""
    for template in CELEBRITY_TEMPLATES:
        before, after = template.split("{}")
        if prompt.startswith(before) and prompt.endswith(after) and len(prompt) > len(before) + len(after):
            return prompt[len(before) : len(prompt) - len(after)]
    raise DataError(f"no name in {prompt!r}: MACE's templates are {'; '.join(CELEBRITY_TEMPLATES)}")


def _object(entry: Any) -> dict[str, Any]:
    require(isinstance(entry, dict), f"{str(entry)[:40]!r} is no object with a key `prompt`", DataError)
    fields: dict[str, Any] = entry
    return fields


def _text(fields: dict[str, Any], key: str) -> str:
    value = fields.get(key)
    if not isinstance(value, str):
        raise DataError(f"{key} {str(value)[:40]!r}: give a text; keys found: {', '.join(fields)}")
    return value.strip()
