"""Makes suites from a user's prompt file, or from concepts of a model that has no table."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from ...core.concept import Concept, ConceptKind
from ...core.errors import DataError, require
from ...core.text_identity import TextKey, composed_text, folded_text
from ...prompts.checks import (
    Check,
    GroupSizes,
    JudgedAspect,
    Prompt,
    aspect_of,
    first_of_each_group,
    template_checks,
)
from ...prompts.hub_folder import read_hub_folder
from ...prompts.loaders import load_prompts
from ...prompts.sets import PromptGroup, PromptItem, PromptSet
from ...prompts.text_matching import find_name
from ...worlds.table import ConceptTable
from .registry import Suite

UNLIMITED_SIZES = GroupSizes(1_000_000, 1_000_000)
# Groups of prompts that ask for the target, in some words. About a concept that is not a target, they are near.
_TARGET_GROUPS: tuple[PromptGroup, ...] = ("direct", "synonym", "paraphrase", "indirect", "other-language")
_OWN_GROUPS: tuple[PromptGroup, ...] = (*_TARGET_GROUPS, "near")  # in which prompts show the concept as targets' do


def suite_from_file(
    path: Path,
    concepts: Sequence[str],
    table: ConceptTable | None,
    key: TextKey = folded_text,
    is_table_judged: bool = False,
    kind: ConceptKind = "object",
) -> Suite:
    """Make a suite of all prompts in a published or own file, by group, with the file's seeds and guidance if it has
    them.

    What a row is about wins over `concepts`: prompts about others are near. Rows that name no concept are about the
    first one. Captions about nothing are left out, because no judge can answer them, and with `is_table_judged` also
    prompts about concepts that are not in the table. The suite's note counts all of these. `key` tells which names are
    one concept, `kind` what the concepts are, and others that are asked for alike, if no table knows it.
    """
    read = read_hub_folder(path, concepts[0]) if path.is_dir() else load_prompts(path, concept=concepts[0])
    known = [entry.name for entry in table.entries] if table else []
    spelled = {key(name): name for name in [*known, *reversed(concepts)]}
    items = [_grouped(item, spelled.get(key(item.concept), item.concept), concepts) for item in read if item.concept]
    require(
        bool(items),
        f"{path}: every prompt is a caption about nothing in particular, which a judge has no question for: give"
        " prompts about concepts",
        DataError,
    )
    _require_known_spelling(path, items, concepts)
    unknown = Counter(item.concept for item in items if is_table_judged and item.concept not in spelled.values())
    items = [item for item in items if item.concept not in unknown]
    require(
        bool(items),
        f"{path}: the judge knows nothing that its prompts are about ({_first_names(unknown)}): name another with"
        " --judge",
        DataError,
    )

    alike = {spelled.get(key(item.concept), item.concept) for item in read if _is_asked_as_targets(item)}
    aspects = _Aspects(table, frozenset({*concepts, *alike}), kind)

    def ask(names: Sequence[str], sizes: GroupSizes) -> list[Check]:
        return [_check(item, sizes, aspects) for item in first_of_each_group(items, sizes)]

    summary = f"{len(items)} prompts of {path.name}"
    note = _reading_note(path, read, items, concepts, unknown)
    return Suite(path.stem, summary, UNLIMITED_SIZES, ask, note=note, direct=partial(_check_about, aspects, "direct"))


def _grouped(item: PromptItem, name: str, concepts: Sequence[str]) -> PromptItem:
    """The item with its concept's known name: about a target it is not near, about another it is not direct."""
    if name in concepts:
        return replace(item, concept=name, group="direct" if item.group == "near" else item.group)
    return replace(item, concept=name, group="near" if item.group in _TARGET_GROUPS else item.group)


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


def _reading_note(
    path: Path, read: PromptSet, items: Sequence[PromptItem], concepts: Sequence[str], unknown: Counter[str]
) -> str:
    """Say what was counted otherwise than asked, in one line; "" if all prompts are about the targets."""
    others = Counter(item.concept for item in items if item.concept not in concepts and item.group == "near")
    told = []
    if others:
        told.append(f"about other concepts, counted as near: {others.total()} ({_first_names(others)})")
    if unknown:
        told.append(
            f"about concepts that the judge does not know, left out: {unknown.total()} ({_first_names(unknown)})"
        )
    captions = len(read) - len(items) - unknown.total()
    if captions:
        told.append(f"captions about nothing in particular, left out: {captions}")
    if read.empty_rows:
        told.append(f"rows without a prompt, passed over: {read.empty_rows}")
    return f"prompts of {path.name}: {'; '.join(told)}" if told else ""


def _first_names(counted: Counter[str]) -> str:
    return ", ".join(list(counted)[:3]) + (", ..." if len(counted) > 3 else "")


def suite_from_concepts(concepts: Sequence[Concept], retain: Sequence[str], sizes: GroupSizes) -> Suite:
    """Make a suite of the concepts in their kind's templates, and of the retained texts."""

    def ask(names: Sequence[str], sizes: GroupSizes) -> list[Check]:
        return template_checks(concepts, retain, sizes)

    return Suite("plain", "concepts in their kind's templates, and retained texts", sizes, ask)


def _is_asked_as_targets(item: PromptItem) -> bool:
    """Whether a row is about a target, or about what is retained beside targets; HUB's near nouns have a tag."""
    return item.group in _TARGET_GROUPS or (item.group == "near" and not item.tag)


@dataclass(frozen=True)
class _Aspects:
    """What is asked about pictures of a concept: a table's kind, else that of the targets where it must be theirs."""

    table: ConceptTable | None
    alike: frozenset[str]
    """The targets, and others of their kind."""
    kind: ConceptKind

    def question(self, group: PromptGroup, concept: str) -> tuple[JudgedAspect, tuple[str, ...]]:
        """The aspect, and the labels that the judge looks for."""
        if self.table is not None:
            known = {entry.name: entry for entry in self.table.entries}
            if concept in known:
                return aspect_of(known[concept].kind), known[concept].labels
        if group == "style":
            return "style", (concept,)
        return aspect_of(self.kind) if concept in self.alike and group in _OWN_GROUPS else "object", (concept,)


def _check(item: PromptItem, sizes: GroupSizes, aspects: _Aspects) -> Check:
    seed = sizes.prompt(item.text, item.replicate).seed if item.seed is None else item.seed
    return _check_about(aspects, item.group, Prompt(item.text, seed, item.guidance_scale), item.concept)


def _check_about(aspects: _Aspects, group: PromptGroup, prompt: Prompt, concept: str) -> Check:
    by, labels = aspects.question(group, concept)
    return Check(prompt, group, concept, by, labels)
