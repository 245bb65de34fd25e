"""Merges the edited weights with those of the unedited model, as model merging does; it has no paper.

Whoever has an edited checkpoint and the public base can average them. Nothing is trained.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

from ..core.errors import EditError, require
from ..edits import Edit
from ..models.families import FAMILIES
from .registry import AttackAttempt, AttackCase, AttackInput, LadderPlace, attack


@attack(
    "merge",
    paper="none",
    rung="weights",
    scope="concept",
    families=FAMILIES,
    lever="weights",
    place=LadderPlace("merging"),
)
@dataclass(frozen=True)
class Merge:
    """Averages the edited weights with the unedited model's, at rising shares of the unedited model.

    An edit that changes no weight cannot be averaged away: it is n/a there, because it can be left out.
    """

    shares: tuple[float, ...] = (0.25, 0.5, 0.75)
    """Shares of the unedited model, rising, above 0 and at most 1; 1 is the unedited model itself."""

    def __post_init__(self) -> None:
        rising = list(self.shares) == sorted({*self.shares}) and bool(self.shares)
        require(
            rising and self.shares[0] > 0 and self.shares[-1] <= 1,
            f"merge: shares must rise, above 0 and at most 1, got {self.shares}",
        )

    @property
    def most_steps(self) -> int:
        """Steps of a search that finds nothing: merges that are tried."""
        return len(self.shares)

    def search(self, case: AttackCase) -> Iterator[AttackAttempt]:
        """Try one share s in each attempt: W_0 + (1 - s) dW, as -s dW on top of the edited model."""
        yield AttackAttempt(0, {i: AttackInput(text) for i, text in enumerate(case.prompts)})
        message = "merge weighs one edit, and several are applied: attack their merged edit"
        require(case.edit is None or hasattr(case.edit, "scaled"), message, EditError)
        edit = cast(Edit | None, case.edit)
        for tried, share in enumerate(self.shares, 1):
            left = case.unsolved
            if not left:
                return
            over = None if edit is None else edit.scaled(-share, amplify=True)
            yield AttackAttempt(tried, {i: AttackInput(case.prompts[i], weights=over) for i in left})
