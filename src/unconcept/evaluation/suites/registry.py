"""Suites: which prompts are asked, how many, what is made of the answers, which attacks are run. One registry.

A protocol of its own lives in a file beside this one, found by its name.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from ...core.errors import RequestError
from ...core.registry import Registry
from ...edits.base import EditOrigin
from ...prompts.checks import Check, GroupSizes
from ..judging.evidence import SuiteFigure, TrialEvidence


def no_figures(found: TrialEvidence) -> list[SuiteFigure]:
    """The groups' rates say it all."""
    return []


@dataclass(frozen=True)
class Suite:
    """What a protocol asks about an edit that erased some concepts, and what it makes of the answers.

    `ask` is its setting for the embedded models. Another model is asked the paper's `published_questions`, or
    `questions_from_edits`, or, by a suite in groups, about the concepts in their kind's templates.
    """

    name: str
    summary: str
    sizes: GroupSizes
    ask: Callable[[Sequence[str], GroupSizes], list[Check]]
    figures: Callable[[TrialEvidence], list[SuiteFigure]] = no_figures
    attacks: tuple[str, ...] = ()
    """Names; "*" is all."""
    prompts_per_attack: int = 8
    """Prompts each attack is given."""
    in_groups: bool = False
    """It asks in the glossary's groups, about each concept and what is near and far."""
    stepwise: bool = False
    """Edit number k is asked about the first k concepts."""
    published_questions: Callable[[Sequence[str], GroupSizes], list[Check]] | None = None
    """The paper's questions to any model."""
    questions_from_edits: Callable[[Sequence[EditOrigin], Sequence[str], GroupSizes], list[Check]] | None = (
        None  # questions to any model, from its edits' headers
    )
    spec: str | None = None
    """How the paper draws them; None: the model's default."""
    meaning: Mapping[str, tuple[str, str, str]] = field(default_factory=dict)
    """What its groups are, where not as everywhere: name, sentence, what it should do."""

    def checks(self, concepts: Sequence[str]) -> list[Check]:
        """Its questions about these concepts."""
        return self.ask(concepts, self.sizes)

    def with_limit(self, limit: int | None, seed: int) -> "Suite":
        """The same suite with at most `limit` prompts a group, from other noise."""
        attacked = self.prompts_per_attack if limit is None else min(self.prompts_per_attack, limit)
        return replace(self, sizes=replace(self.sizes.with_limit(limit), seed=seed), prompts_per_attack=attacked)


def suite_for_edits(suite: Suite, origins: Sequence[EditOrigin]) -> Suite:
    """A suite that asks about what edits were made with, for a model without a table."""
    if suite.questions_from_edits is None:
        raise RequestError(
            f"suite {suite.name} asks other models its published prompts: give their file with --prompts"
        )
    return replace(suite, ask=partial(suite.questions_from_edits, origins))


suites: Registry[Suite] = Registry("suite", plugin_group="unconcept.suites")
