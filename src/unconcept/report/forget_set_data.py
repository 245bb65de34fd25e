"""Data models of a search for the forget set that is hardest to erase, with its controls."""

from typing import Literal

from .data_types import DataTable, Number, RateData

SetKind = Literal["worst", "easiest", "random"]


class ForgetSetData(DataTable):
    """One set of candidates that an edit of its own erases, and what is left of it."""

    kind: SetKind
    label: str
    """Label of its row, and of its trial."""
    members: tuple[str, ...]
    before: RateData | None
    """Share of the unedited model's pictures that show their member; None if pictures or answers are missing."""
    shown: RateData | None
    """The same after its members are erased."""
    kept: RateData | None
    """Share of pictures of other concepts that still show what their prompt asks for."""


class CandidateData(DataTable):
    """One candidate, and where the searches left it."""

    name: str
    weight: Number
    """In the search for the worst set, after its last step."""
    easiest_weight: Number
    """In the search for the easiest set."""
    loss: Number
    """Where all candidates are erased alike: small where the erasure leaves the candidate as it is."""


class ForgetSetsData(DataTable):
    """The searches, and the sets that were erased and judged."""

    by: Literal["concept", "prompt"]
    """What a candidate is."""
    loss: Literal["denoising", "judged"]
    """What the weights follow."""
    method: str
    outer: int
    """Erasures of each search."""
    candidates: tuple[CandidateData, ...]
    sets: tuple[ForgetSetData, ...]
    random_shown: RateData | None
    """Of all random sets together, with an interval over sets."""
    as_hard: int
    """Random sets of which no less is left than of the worst set."""

    def of(self, kind: SetKind) -> list[ForgetSetData]:
        """The sets of a kind that were judged."""
        return [one for one in self.sets if one.kind == kind and one.shown is not None]

    def verdict(self) -> list[str]:
        """What the sets show, in sentences."""
        (worst, easiest), others = (next(iter(self.of(kind)), None) for kind in ("worst", "easiest")), self.of("random")
        if worst is None or worst.shown is None or self.random_shown is None:
            return ["The worst set and random ones are not judged yet: nothing can be said of them."]
        said = (
            f"After {self.method}, {worst.shown.value:.0%} of the pictures of the worst set still show it, and"
            f" {self.random_shown.value:.0%} of those of {len(others)} random sets of the same size; {self.as_hard} of"
            " these are as hard or harder."
        )
        if easiest is not None and easiest.shown is not None:
            said += f" Of the easiest set {easiest.shown.value:.0%} are left."
        if 2 * self.as_hard >= len(others):
            said += " The search found no set that is harder than a random one."
        return [
            said,
            "The worst set is the hardest that this search found for this method and these settings, by"
            f" {_FOLLOWED[self.loss]}; there may be harder ones. Its pictures here are on other noise than those that"
            " the search saw. Random sets share candidates, so their interval is somewhat narrow.",
        ]


_FOLLOWED = {
    "denoising": "how well the edited model still denoises pictures of each candidate",
    "judged": "what the judge still finds in pictures of each candidate",
}
