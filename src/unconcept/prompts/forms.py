"""Readers for the forms in which prompts are published: each turns one entry of a file into prompt items.

A reader gets a table row, a line, or a JSON element, and the context of the whole file, which fills in what the form
leaves open. Columns that a form does not name are ignored.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from ..core.docstrings import summary_of
from ..core.errors import DataError, require
from ..core.registry import Registry
from ..core.text_identity import folded_text
from .cells import CsvRow, item_of_row, json_object, own_concept, prompt_group, text_field
from .sets import PromptGroup, PromptItem

PromptFileKind = Literal["table", "lines", "json"]
_I2P_CATEGORIES = ("hate", "harassment", "violence", "self-harm", "sexual", "shocking", "illegal activity")
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
    """Information about a whole prompt file."""

    concept: str | None
    """The concept of rows that name none themselves, if the caller gives one."""
    group: PromptGroup | None
    stem: str
    """The file's name without its suffix; several benchmarks name files after concepts."""

    @property
    def about(self) -> str:
        """The caller's concept, or else the one in the file's name."""
        return self.concept or self.stem.replace("_", " ")


_EntryReader = Callable[[Any, PromptFileContext], Iterable[PromptItem]]


@dataclass(frozen=True)
class PromptForm:
    """A form of prompt files, with its reader."""

    name: str
    kind: PromptFileKind
    needs: tuple[str, ...]
    """Columns of a table by which this form is recognised."""
    open: bool
    """Whether the caller may name the group."""
    most: int | None
    """The number of entries that the protocol uses from the start of a file; None for all."""
    read: _EntryReader
    summary: str


prompt_forms: Registry[PromptForm] = Registry("prompt form", plugin_group="unconcept.prompt_forms")


def prompt_form(
    name: str, kind: PromptFileKind, needs: tuple[str, ...] = (), open: bool = True, most: int | None = None
) -> Callable[[_EntryReader], _EntryReader]:
    """Return a decorator that registers a reader under the name that users type."""

    def put(read: _EntryReader) -> _EntryReader:
        summary = summary_of(read)
        prompt_forms.register(name)(PromptForm(name, kind, needs, open, most, read, summary))
        return read

    return put


@prompt_form("i2p", "table", ("prompt", "categories", "inappropriate_percentage"))
def read_i2p(row: CsvRow, given: PromptFileContext) -> Iterable[PromptItem]:
    """I2P and its subsets, also UnlearnDiffAtk's: each row has a seed and a guidance scale; the categories are the tag.

    Asked about one of its seven categories, it has the rows of that category, and the others are about theirs. Any
    other concept, such as nudity, is looked for in all rows, as in the published counts.
    """
    categories = row["categories"].strip()
    asked = folded_text(given.concept or "")
    is_another = asked in _I2P_CATEGORIES and asked not in map(folded_text, categories.split(","))
    concept = categories if is_another or not given.concept else given.concept
    yield item_of_row(row, concept, given.group or "indirect", categories)


@prompt_form("unlearndiffatk", "table", ("prompt", "case_number", "evaluation_seed"))
def read_unlearndiffatk(row: CsvRow, given: PromptFileContext) -> Iterable[PromptItem]:
    """UnlearnDiffAtk's, ESD's and UCE's prompts; their concept is in a column such as class, or in the file's name."""
    yield item_of_row(row, own_concept(row) or given.about, given.group or "direct")


@prompt_form("coco", "table", ("prompt", "coco_id"))
def read_coco(row: CsvRow, given: PromptFileContext) -> Iterable[PromptItem]:
    """COCO captions with seeds, as MACE and ESD publish them: far prompts, about nothing whatever the caller asks."""
    yield item_of_row(row, "", given.group or "far")


@prompt_form("coco-images", "table", ("prompt", "image_id"))
def read_coco_images(row: CsvRow, given: PromptFileContext) -> Iterable[PromptItem]:
    """COCO captions by the id of their image, as SPM publishes them: far prompts about nothing."""
    yield item_of_row(row, "", given.group or "far")


@prompt_form("sensitive-pairs", "table", ("sensitive prompt", "normal prompt"))
def read_sensitive_pairs(row: CsvRow, given: PromptFileContext) -> Iterable[PromptItem]:
    """Pairs for Ring-A-Bell, as RECE publishes them: a prompt with the concept, and one without it, about nothing."""
    for column, concept, group in (
        ("sensitive prompt", given.about, given.group or "direct"),
        ("normal prompt", "", "far"),
    ):
        if row[column].strip():
            yield PromptItem(row[column].strip(), concept, prompt_group(group))


@prompt_form("mace", "table", ("type", "prompt", "evaluation_seed"), open=False)
def read_mace(row: CsvRow, given: PromptFileContext) -> Iterable[PromptItem]:
    """MACE's celebrities and artists: the erased ones are direct, the others near.

    Artists have types 0 and 1; that 0 means erased is (inferred), because erased ones come first in all files.
    """
    kind = _kind(row, {"erased": "direct", "0": "direct", "others": "near", "1": "near"})
    yield item_of_row(row, own_concept(row) or _celebrity(row["prompt"].strip()), kind)


@prompt_form("speed", "table", ("type", "concept", "prompt"), open=False)
def read_speed(row: CsvRow, given: PromptFileContext) -> Iterable[PromptItem]:
    """SPEED's celebrities: type erase is direct, retain is near. That column `prompt` has the prompts is (inferred)."""
    yield item_of_row(row, row["concept"].strip(), _kind(row, {"erase": "direct", "retain": "near"}))


@prompt_form("hub-lines", "lines")
def read_hub_lines(line: str, given: PromptFileContext) -> Iterable[PromptItem]:
    """HUB's target_image and attack_robustness: one prompt a line, some in double quotes, in a file named by concept.

    Differs: HUB draws with the quotes and the line's end as part of the prompt.
    """
    text = line.strip()
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = text[1:-1].replace('""', '"').strip()
    if text:
        yield PromptItem(text, given.about, given.group or "direct")


@prompt_form("hub-languages", "table", ("original", *_HUB_LANGUAGES))
def read_hub_languages(row: CsvRow, given: PromptFileContext) -> Iterable[PromptItem]:
    """HUB's multilingual_robustness: five translations of each prompt, with the language as tag.

    The English originals are the prompts of target_image.
    """
    for language in _HUB_LANGUAGES:
        if row[language].strip():
            yield PromptItem(row[language].strip(), given.about, given.group or "other-language", tag=language)


@prompt_form("hub-pinpoint", "table", ("noun", "similarity"), open=False, most=100)
def read_hub_pinpoint(row: CsvRow, given: PromptFileContext) -> Iterable[PromptItem]:
    """HUB's pinpoint_ness: the nouns nearest to a concept, which the model must still draw; the first 100 of a file."""
    noun = row["noun"].strip()
    if noun:
        yield PromptItem(f"a photo of {noun}", noun.replace("_", " "), "near", tag=given.stem)


@prompt_form("hub-selective", "json", ("prompt", "nouns"))
def read_hub_selective(entry: object, given: PromptFileContext) -> Iterable[PromptItem]:
    """HUB's selective_alignment: target prompts, with one question for each of the other things in them."""
    fields = json_object(entry)
    nouns = fields.get("nouns")
    if not (isinstance(nouns, list) and all(isinstance(noun, str) for noun in nouns)):
        raise DataError(f"nouns {str(nouns)[:40]!r}: give a list of strings")
    for noun in dict.fromkeys(noun.strip() for noun in nouns if noun.strip()):
        yield PromptItem(text_field(fields, "prompt"), noun, given.group or "co-occurring", tag=given.about)


@prompt_form("erase-eval", "json")
def read_erase_eval(entry: object, given: PromptFileContext) -> Iterable[PromptItem]:
    """EraseEval's cache: {concept: prompt}, direct in protocol1.json, indirect in protocol2.json.

    {concept: {explicit, implicit}} is read too.
    """
    if not isinstance(entry, tuple):
        raise DataError("the file is a list, but EraseEval's cache is an object: give {concept: prompt}")
    concept, value = entry
    if isinstance(value, dict):
        sides: tuple[tuple[str, PromptGroup], ...] = (("explicit", "direct"), ("implicit", "indirect"))
        found = [(text_field(value, side), group) for side, group in sides if side in value]
        require(bool(found), f"keys {', '.join(value)}: give explicit, implicit, or both", DataError)
    else:
        stems: dict[str, PromptGroup] = {"protocol1": "direct", "protocol2": "indirect"}
        group = given.group or stems.get(given.stem)
        require(
            group is not None,
            "the group of the file is unknown: name it protocol1.json or protocol2.json, or give group direct or"
            " indirect",
            DataError,
        )
        found = [(text_field({"prompt": value}, "prompt"), group or "direct")]
    for text, group in found:
        yield PromptItem(text, concept.strip(), group)


@prompt_form("table", "table", ("prompt",))
def read_own_table(row: CsvRow, given: PromptFileContext) -> Iterable[PromptItem]:
    """A table of your own: column prompt, and optionally concept, group, seed, guidance_scale, tag, id."""
    group = row.get("group", "").strip() or given.group or "direct"
    yield item_of_row(row, own_concept(row) or given.concept or "", prompt_group(group), row.get("tag", "").strip())


@prompt_form("list", "json")
def read_own_list(entry: object, given: PromptFileContext) -> Iterable[PromptItem]:
    """A JSON list of your own: strings, or objects with the columns of a table as keys."""
    if isinstance(entry, str):
        yield PromptItem(entry.strip(), given.concept or "", given.group or "direct")
        return
    fields = json_object(entry)
    text_field(fields, "prompt")
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
    """Plain text, one prompt a line; blank lines and lines that start with # are skipped."""
    text = line.strip()
    if text and not text.startswith("#"):
        yield PromptItem(text, given.concept or "", given.group or "direct")


def _kind(row: CsvRow, known: dict[str, PromptGroup]) -> PromptGroup:
    name = row["type"].strip().lower()
    require(name in known, f"type {name!r}: allowed are {', '.join(known)}", DataError)
    return known[name]


def _celebrity(prompt: str) -> str:
    """The name in one of MACE's five templates."""
    for template in _CELEBRITY_TEMPLATES:
        before, after = template.split("{}")
        if prompt.startswith(before) and prompt.endswith(after) and len(prompt) > len(before) + len(after):
            return prompt[len(before) : len(prompt) - len(after)]
    raise DataError(
        f"{prompt!r} follows none of MACE's templates, so it names no one: {'; '.join(_CELEBRITY_TEMPLATES)}"
    )
