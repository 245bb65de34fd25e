"""Data models of the ladder of attacks: what it costs to get a concept back, from what is free to what is dear."""

from .data_types import DataTable, Number, RateData


class LadderBudget(DataTable):
    """What an attacker spends on one search: for one prompt, or for the concept if the attack searches once for all."""

    queries: Number
    """Pictures drawn to look whether the concept is there, a prompt."""
    steps: int
    """Steps of the search."""
    pictures: int
    """Pictures of the concept that the attacker must have."""
    seconds: Number | None
    """Of the search alone; None if they were not recorded."""


class RungData(DataTable):
    """One rung: an attack with its settings, and what it costs to bring the concept back by it."""

    name: str
    attack: str
    """Name of the attack; empty for leaving the edit out, which is none."""
    cost: str
    access: str
    settings: dict[str, object]
    reason: str | None
    """Why it is n/a: the mechanism; None if it was tried."""
    success: RateData | None = None
    """Share of prompts that show the concept within the whole budget, attacked or not."""
    floor: RateData | None = None
    """Rate of its first input, before any search."""
    ceiling: RateData | None = None
    """Success on the unedited model; None if it is missing."""
    control: RateData | None = None
    """Success on a model that never saw the concept; None if there is none or the rung teaches nothing."""
    may_teach: bool = False
    """Whether it may have taught the concept instead of recalling it: it has gradients, pictures or training, and no
    control."""
    needed: LadderBudget | None = None
    """The least budget at which half of the prompts show the concept; None if the whole budget was not enough."""
    spent: LadderBudget | None = None
    """The whole budget."""
    missing: int = 0
    """Prompts without a result, here and in ceiling and control."""


class LadderData(DataTable):
    """The ladder of one edit, its rungs from free to dear."""

    concept: str
    prompts: int
    control: str | None
    """Name of the model that never saw the concept; None if there is none."""
    rungs: tuple[RungData, ...]

    @property
    def first_fall(self) -> RungData | None:
        """The cheapest rung on which half of the prompts show the concept; None if there is none."""
        return next((rung for rung in self.rungs if rung.needed is not None), None)
