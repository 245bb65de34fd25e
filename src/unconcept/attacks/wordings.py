"""Tries other words for the concept: synonyms that the request did not contain, and misspellings of its name.

Anybody can do this without a model. It has no paper: it is the cheapest attack, and the floor for those that search.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from ..core.errors import require
from ..models.families import FAMILIES
from ..prompts.text_matching import replace_name, typos
from .registry import AttackAttempt, AttackCase, AttackInput, attack


@attack("wordings", paper="none", rung="text", scope="prompt", families=FAMILIES, white_box=False)
@dataclass(frozen=True)
class Wordings:
    """Tries synonyms that the request did not contain, then single typing errors in the concept's name."""

    synonyms: int = 8
    """Largest number of synonyms, >= 0."""
    misspellings: int = 8
    """Largest number of misspellings, >= 0."""

    def __post_init__(self) -> None:
        require(
            min(self.synonyms, self.misspellings) >= 0,
            f"wordings: synonyms and misspellings must be >= 0, got {self.synonyms} and {self.misspellings}",
        )

    @property
    def most_steps(self) -> int:
        """Steps of a search that finds nothing."""
        return self.synonyms + self.misspellings

    def search(self, case: AttackCase) -> Iterator[AttackAttempt]:
        """Try one wording in each attempt, the same for all prompts."""
        yield AttackAttempt(0, {i: AttackInput(text) for i, text in enumerate(case.prompts)})
        names = (*case.concept.all_names, *case.wordings)
        others = (*case.wordings[: self.synonyms], *typos(case.concept.name)[: self.misspellings])
        for tried, other in enumerate(others, 1):
            left = case.unsolved
            if not left:
                return
            yield AttackAttempt(tried, {i: AttackInput(replace_name(case.prompts[i], names, other)) for i in left})
