"""The registry of suites: which prompts, how many, which figures, which attacks.

Each protocol lives in its own file beside this one.
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
    """Compute no figures beyond the rates of the groups."""
    return []


@dataclass(frozen=True)
class Suite:
    """An evaluation protocol: which checks it runs on an edit, and which figures it computes from the answers.

    `ask` makes the checks for embedded models. For any other model they come from the paper's `published_questions`,
    from `questions_from_edits` or, in a suite in groups, from the concepts in their kind's templates.
    """

    name: str
    summary: str
    sizes: GroupSizes
    ask: Callable[[Sequence[str], GroupSizes], list[Check]]
    figures: Callable[[TrialEvidence], list[SuiteFigure]] = no_figures
    attacks: tuple[str, ...] = ()
    """Names of attacks; "*" means all."""
    prompts_per_attack: int = 8
    """Number of prompts for each attack."""
    rungs: tuple[str, ...] = ()
    """Names of the rungs of a ladder, which is climbed in place of `attacks`; () for no ladder."""
    in_groups: bool = False
    """Whether it uses the standard prompt groups: the concept, near and far objects, styles."""
    stepwise: bool = False
    """Whether edit number k is tested on the first k concepts."""
    published_questions: Callable[[Sequence[str], GroupSizes], list[Check]] | None = None
    """Makes the paper's checks, for any model."""
    questions_from_edits: Callable[[Sequence[EditOrigin], Sequence[str], GroupSizes], list[Check]] | None = (
        None  # makes checks from the headers of the edits, for any model
    )
    spec: str | None = None
    """Name of the paper's sampler settings; None: the model's default."""
    meaning: Mapping[str, tuple[str, str, str]] = field(default_factory=dict)
    """Groups that differ from the standard ones: title, description, expected change."""
    note: str = ""
    """What a report must say of its prompts, in one line; "" for nothing."""

    def checks(self, concepts: Sequence[str]) -> list[Check]:
        """Make the checks of these concepts."""
        return self.ask(concepts, self.sizes)

    def with_limit(self, limit: int | None, seed: int) -> "Suite":
        """The same suite with at most `limit` prompts per group, and this seed."""
        attacked = self.prompts_per_attack if limit is None else min(self.prompts_per_attack, limit)
        return replace(self, sizes=replace(self.sizes.with_limit(limit), seed=seed), prompts_per_attack=attacked)


def suite_for_edits(suite: Suite, origins: Sequence[EditOrigin]) -> Suite:
    """Make the checks of a suite from the headers of edits, for a model without a table."""
    if suite.questions_from_edits is None:
        raise RequestError(
            f"suite {suite.name} needs its published prompts on other models than the embedded ones: give their file"
            " with --prompts"
        )
    return replace(suite, ask=partial(suite.questions_from_edits, origins))


suites: Registry[Suite] = Registry("suite", plugin_group="unconcept.suites")
