"""What an attack's search tried, and what the judge saw of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ...attacks import AttackAttempt
from ..attacks.inputs import AdversarialInput


@dataclass(frozen=True)
class SeenPicture:
    """What the judge answers about one picture."""

    word: str
    shows_concept: bool
    changed: bool | None
    """Whether it shows the change that was asked for; None if none was, or if the judge cannot tell."""

    @property
    def is_success(self) -> bool:
        return self.shows_concept and self.changed is not False


@dataclass
class SearchLog:
    """Records the attempts of a search so far."""

    found: dict[int, AdversarialInput] = field(default_factory=dict)
    """The last input of each prompt."""
    attempts: list[dict[str, object]] = field(default_factory=list)
    """One record per attempt, as the result file holds it."""
    queries: int = 0
    searching: float = 0.0
    """Seconds of search."""
    drawing: float = 0.0
    """Seconds of drawing and judging."""
    shown_controls: dict[str, set[int]] = field(default_factory=dict)
    """By control, the prompts for which one of its pictures has shown the concept."""
    for_next_try: float = 0.0
    """Seconds of search that came before a control and that the next try needs, such as an inversion."""

    def add(
        self,
        attempt: AttackAttempt,
        given: Mapping[int, AdversarialInput],
        seen: Mapping[int, SeenPicture],
        seconds: float,
    ) -> None:
        """Add an attempt after `seconds` of search, and what its pictures show.

        A control's pictures are no queries, and what was searched before it counts with the next try.
        """
        self.searching += seconds
        if attempt.control is None:
            self.found |= given
            self.queries += len(given)
            seconds, self.for_next_try = seconds + self.for_next_try, 0.0
        else:
            shown = {i for i, one in seen.items() if one.is_success}
            self.shown_controls.setdefault(attempt.control, set()).update(shown)
            seconds, self.for_next_try = 0.0, seconds + self.for_next_try
        record: dict[str, object] = {
            "steps": attempt.steps,
            "queries": self.queries,
            "seconds": round(seconds, 3),
            "loss": attempt.loss,
            "shown": {str(i): one.is_success for i, one in seen.items()},
            "words": {str(i): one.word for i, one in seen.items()},
        }
        record |= {} if attempt.control is None else {"control": attempt.control}
        changed = {str(i): one.changed for i, one in seen.items() if one.changed is not None}
        self.attempts.append(record | ({"changed": changed} if changed else {}))
