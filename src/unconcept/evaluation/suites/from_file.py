"""Makes suites from a user's prompt file, or from concepts of a model that has no table."""

from collections.abc import Sequence
from pathlib import Path

from ...core.concept import Concept
from ...prompts.checks import Check, GroupSizes, JudgedAspect, Prompt, first_of_each_group, template_checks
from ...prompts.loaders import load_prompts
from ...prompts.sets import PromptItem
from ...worlds.table import ConceptTable
from .registry import Suite

UNLIMITED_SIZES = GroupSizes(1_000_000, 1_000_000)


def suite_from_file(path: Path, concepts: Sequence[str], table: ConceptTable | None) -> Suite:
    """Make a suite of all prompts in a published or own file, by group, with the file's seeds and guidance if it has
    them.

    Prompts without a concept are skipped, because no judge can answer them. If the file has no column for the concept,
    all prompts are about the first concept.
    """
    items = [item for item in load_prompts(path, concept=concepts[0]) if item.concept]

    def ask(names: Sequence[str], sizes: GroupSizes) -> list[Check]:
        return [_check(item, sizes, table) for item in first_of_each_group(items, sizes)]

    return Suite(path.stem, f"{len(items)} prompts of {path.name}", UNLIMITED_SIZES, ask)


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
