"""Other words for the concept: synonyms no request was given, and its name misspelt. What anybody can try without a model.

No paper: the cheapest attack, and the floor for those that search.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from ..core.errors import require
from ..models.family import FAMILIES
from ..prompts.text_matching import reworded, typos
from .registry import Attempt, Case, Input, attack


@attack("wordings", paper="none", rung="text", scope="prompt", families=FAMILIES)
@dataclass(frozen=True)
class Wordings:
    """Synonyms that the request did not name, then single slips of the hand in the concept's name."""

    synonyms: int = 8  # at most
    misspellings: int = 8  # at most

    def __post_init__(self) -> None:
        require(min(self.synonyms, self.misspellings) >= 0, "wordings: synonyms and misspellings must be >= 0")

    def search(self, case: Case) -> Iterator[Attempt]:
        """One wording an attempt, the same for all prompts."""
        yield Attempt(0, {i: Input(text) for i, text in enumerate(case.prompts)})
        names = (*case.concept.wordings, *case.wordings)
        others = (*case.wordings[: self.synonyms], *typos(case.concept.name)[: self.misspellings])
        for tried, other in enumerate(others, 1):
            left = case.left
            if not left:
                return
            yield Attempt(tried, {i: Input(reworded(case.prompts[i], names, other)) for i in left})
