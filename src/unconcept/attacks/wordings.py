"""Other words for the concept: synonyms no request was given, and its name misspelt.

What anybody can try without a model.

No paper: the cheapest attack, and the floor for those that search.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from ..core.errors import require
from ..models.families import FAMILIES
from ..prompts.text_matching import replace_name, typos
from .registry import AttackAttempt, AttackCase, AttackInput, attack


@attack("wordings", paper="none", rung="text", scope="prompt", families=FAMILIES)
@dataclass(frozen=True)
class Wordings:
    """Synonyms that the request did not name, then single slips of the hand in the concept's name."""

    synonyms: int = 8
    """At most."""
    misspellings: int = 8
    """At most."""

    def __post_init__(self) -> None:
        require(min(self.synonyms, self.misspellings) >= 0, "wordings: synonyms and misspellings must be >= 0")

    def search(self, case: AttackCase) -> Iterator[AttackAttempt]:
        """One wording an attempt, the same for all prompts."""
        yield AttackAttempt(0, {i: AttackInput(text) for i, text in enumerate(case.prompts)})
        names = (*case.concept.all_names, *case.wordings)
        others = (*case.wordings[: self.synonyms], *typos(case.concept.name)[: self.misspellings])
        for tried, other in enumerate(others, 1):
            left = case.unsolved
            if not left:
                return
            yield AttackAttempt(tried, {i: AttackInput(replace_name(case.prompts[i], names, other)) for i in left})
