"""An attack."""

from collections.abc import Iterator
from dataclasses import dataclass

from unconcept.attacks import AttackAttempt, AttackCase, AttackInput, attack


@attack("toy-shout", paper="none", rung="text", scope="prompt", families=("sd1", "sd2"))
@dataclass(frozen=True)
class ToyShout:
    """Types the prompt twice."""

    times: int = 2
    """How often."""

    @property
    def most_steps(self) -> int:
        """One attempt."""
        return 1

    def search(self, case: AttackCase) -> Iterator[AttackAttempt]:
        """The prompts as they are, then repeated."""
        yield AttackAttempt(0, {i: AttackInput(text) for i, text in enumerate(case.prompts)})
        yield AttackAttempt(1, {i: AttackInput(" ".join([case.prompts[i]] * self.times)) for i in case.unsolved})
