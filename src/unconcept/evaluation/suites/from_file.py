"""Makes suites from a user's prompt file, or from concepts of a model that has no table."""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ...core.concept import Concept
from ...core.errors import DataError, require
from ...core.text_identity import TextKey, composed_text, folded_text
from ...prompts.checks import Check, GroupSizes, JudgedAspect, Prompt, first_of_each_group, template_checks
from ...prompts.loaders import load_prompts
from ...prompts.sets import PromptGroup, PromptItem, PromptSet
from ...prompts.text_matching import find_name
from ...worlds.table import ConceptTable
from .registry import Suite

UNLIMITED_SIZES = GroupSizes(1_000_000, 1_000_000)
# Groups of prompts that ask for the target, in some words. About a concept that is not a target, they are near.
_TARGET_GROUPS: tuple[PromptGroup, ...] = ("direct", "synonym", "paraphrase", "indirect", "other-language")


def suite_from_file(
    path: Path, concepts: Sequence[str], table: ConceptTable | None, key: TextKey = folded_text
) -> Suite:
    """Make a suite of all prompts in a published or own file, by group, with the file's seeds and guidance if it has
    them.

    What a row is about wins over `concepts`: prompts about others are near. Rows that name no concept are about the
    first one. Captions about nothing are left out, because no judge can answer them. The suite's note counts all of
    these. `key` tells which names are one concept.
    """
    read = load_prompts(path, concept=concepts[0])
    asked = {key(name): name for name in reversed(concepts)}
    items = [_grouped(item, asked, key) for item in read if item.concept]
    require(
        bool(items),
        f"{path}: every prompt is a caption about nothing in particular, which a judge has no question for: give"
        " prompts about concepts",
        DataError,
    )
    _require_known_spelling(path, items, concepts)

    def ask(names: Sequence[str], sizes: GroupSizes) -> list[Check]:
        return [_check(item, sizes, table) for item in first_of_each_group(items, sizes)]

    summary = f"{len(items)} prompts of {path.name}"
    return Suite(path.stem, summary, UNLIMITED_SIZES, ask, note=_reading_note(path, read, items, concepts))


def _grouped(item: PromptItem, asked: Mapping[Hashable, str], key: TextKey) -> PromptItem:
    """The item with the concept as typed: what is about a target is not near, what is about another is not direct."""
    name = asked.get(key(item.concept))
    if name is not None:
        return replace(item, concept=name, group="direct" if item.group == "near" else item.group)
    return replace(item, group="near") if item.group in _TARGET_GROUPS else item


def _require_known_spelling(path: Path, items: Sequence[PromptItem], concepts: Sequence[str]) -> None:
    """Raise `DataError` if no prompt is about a target, but the file has a longer or shorter name for one."""
    about = dict.fromkeys(item.concept for item in items)
    if set(concepts) & set(about):
        return
    alike = [name for name in about for asked in concepts if _names(name, asked) or _names(asked, name)]
    if alike:
        raise DataError(
            f"{path}: no prompt is about {', '.join(map(repr, concepts))}, some are about {alike[0]!r}: ask for that"
            " name, or rename it in the file"
        )


def _names(text: str, name: str) -> bool:
    return find_name(composed_text(text), [name]) is not None


def _reading_note(path: Path, read: PromptSet, items: Sequence[PromptItem], concepts: Sequence[str]) -> str:
    """Say what was counted otherwise than asked, in one line; "" if all prompts are about the targets."""
    others = Counter(item.concept for item in items if item.concept not in concepts and item.group == "near")
    told = []
    if others:
        names = ", ".join(list(others)[:3]) + (", ..." if len(others) > 3 else "")
        told.append(f"about other concepts, counted as near: {others.total()} ({names})")
    if len(read) > len(items):
        told.append(f"captions about nothing in particular, left out: {len(read) - len(items)}")
    if read.empty_rows:
        told.append(f"rows without a prompt, passed over: {read.empty_rows}")
    return f"prompts of {path.name}: {'; '.join(told)}" if told else ""


def suite_from_concepts(concepts: Sequence[Concept], retain: Sequence[str], sizes: GroupSizes) -> Suite:
    """Make a suite of the concepts in their kind's templates, and of the retained texts."""

    def ask(names: Sequence[str], sizes: GroupSizes) -> list[Check]:
        return template_checks(concepts, retain, sizes)

    return Suite("plain", "concepts in their kind's templates, and retained texts", sizes, ask)


def _check(item: PromptItem, sizes: GroupSizes, table: ConceptTable | None) -> Check:
    known = {entry.name: entry for entry in table.entries} if table else {}
    entry = known.get(item.concept)
    seed = sizes.prompt(item.text, item.replicate).seed if item.seed is None else item.seed
    by: JudgedAspect = "style" if entry is not None and entry.kind == "style" else "object"
    labels = (item.concept,) if entry is None else entry.labels
    return Check(Prompt(item.text, seed, item.guidance_scale), item.group, item.concept, by, labels)
