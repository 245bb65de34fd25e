"""The registry of suites: which prompts, how many, which figures, which attacks.

Each protocol lives in its own file beside this one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from ...core.errors import RequestError
from ...core.registry import Registry
from ...edits.base import EditOrigin
from ...prompts.checks import Check, GroupSizes, Prompt
from ..judging.evidence import SuiteFigure, TrialEvidence
from ..judging.judge import Judge


def no_figures(found: TrialEvidence) -> list[SuiteFigure]:
    """Compute no figures beyond the rates of the groups."""
    return []


def accept_judge(judge: Judge) -> None:
    """Accept every judge."""


def no_notes(found: TrialEvidence) -> dict[str, str]:
    """Write no notes."""
    return {}


PooledTrial = tuple[str, tuple[str, ...], Sequence[SuiteFigure]]  # a trial's label, its concepts and its figures


def no_pooled_notes(trials: Sequence[PooledTrial]) -> dict[str, str]:
    """Say nothing about several trials together."""
    return {}


def direct_check(prompt: Prompt, concept: str) -> Check:
    """Ask whether a picture shows a concept of which nothing but its name is known."""
    return Check(prompt, "direct", concept, "object", (concept,))


def no_prompts(concepts: Sequence[str], sizes: GroupSizes) -> list[Prompt]:
    """Draw nothing beside the checks."""
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
    notes: Callable[[TrialEvidence], dict[str, str]] = no_notes
    """Says what a report must say beside the figures: what was left out, and how to supply it. One line a name."""
    pool: Callable[[Sequence[PooledTrial]], dict[str, str]] = no_pooled_notes
    """Says what the trials of a run give together, such as means over targets. One line a name."""
    draw: Callable[[Sequence[str], GroupSizes], list[Prompt]] = no_prompts
    """Makes prompts that are drawn for the figures but that no judge is asked about, for embedded models."""
    published_draw: Callable[[Sequence[str], GroupSizes], list[Prompt]] = no_prompts
    """The same for any other model, whatever makes its checks."""
    from_file: "Callable[[Sequence[str], Suite, GroupSizes], list[Check]] | None" = None
    """Turns a prompt file's checks of these concepts into the suite's; None: they are asked as they are."""
    direct: Callable[[Prompt, str], Check] = direct_check
    """Makes the check whether a picture shows a concept: its object, or its style where a table calls it one."""
    require_judge: Callable[[Judge], None] = accept_judge
    """Raises `SettingsError` for a judge that the protocol cannot use, on any model but the embedded ones."""
    least_references: int = 0
    """Least number of real pictures that a user may give for its distances of sets; 0: it has none."""

    def checks(self, concepts: Sequence[str]) -> list[Check]:
        """Make the checks of these concepts."""
        return self.ask(concepts, self.sizes)

    def drawn(self, concepts: Sequence[str]) -> list[Prompt]:
        """Make the prompts that are drawn for the figures alone."""
        return self.draw(concepts, self.sizes)

    def prompts(self, concepts: Sequence[str]) -> list[Prompt]:
        """Make everything that is drawn, each prompt once."""
        return list(dict.fromkeys([*(check.prompt for check in self.checks(concepts)), *self.drawn(concepts)]))

    def beside_file(self, own: "Suite") -> "Suite":
        """This protocol with the prompts of a file: its checks and what is said of them."""
        made = replace(
            self, name=own.name, summary=own.summary, note=own.note, sizes=own.sizes, ask=own.ask, direct=own.direct
        )
        if self.from_file is None:
            return made
        turn = self.from_file
        return replace(made, sizes=self.sizes, ask=lambda names, sizes: turn(names, own, sizes))

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
