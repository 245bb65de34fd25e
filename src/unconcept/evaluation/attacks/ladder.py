"""The rungs of the ladder: every registered attack with its settings, from what is free to what is dear."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...attacks import ATTACK_COSTS, EXAMPLE_PICTURES, Attack, AttackCost, attacks
from ...core.errors import RequestError, require
from ...core.registry import suggest
from ...core.settings import build_settings
from ..worlds import World, recipe_settings

DETACH = "detach"  # the rung that no attack is needed for


@dataclass(frozen=True)
class Rung:
    """One rung: an attack with settings that differ from those of its recipe."""

    name: str
    cost: AttackCost
    attack: str = ""
    """Name of the attack; empty for leaving the edit out."""
    changes: Mapping[str, object] | None = None

    @property
    def access(self) -> str:
        """What the attacker needs."""
        return attacks[self.attack].rung if self.attack else "files"

    @property
    def teaches(self) -> bool:
        """Whether it has gradients, pictures or training, so that it may teach what a model never knew."""
        return bool(self.attack) and attacks[self.attack].teaches

    def settings(self, world: World) -> dict[str, object]:
        """Its settings: those of the model's recipe, and its own."""
        return {**recipe_settings(world, self.attack), **(self.changes or {})} if self.attack else {}

    def pictures(self, settings: Mapping[str, object]) -> int:
        """Pictures of the concept that an attacker needs for one search."""
        if not self.attack:
            return 0
        info = attacks[self.attack]
        if info.place.pictures == "examples":
            method: Attack = build_settings(info.settings, settings, f"{info.name} setting")
            return int(getattr(method, "pictures", EXAMPLE_PICTURES))
        return int(info.place.pictures in ("prompts", "example"))


def known_rungs() -> dict[str, Rung]:
    """All rungs by name, from free to dear: detaching, then those of every registered attack."""
    found = [Rung(DETACH, "detaching")]
    for name in attacks:
        info = attacks[name]
        found += [Rung(rung, info.cost, name, changes) for rung, changes in info.rungs.items()]
    ranked = sorted(found, key=lambda rung: (ATTACK_COSTS.index(rung.cost), not rung.attack))
    return {rung.name: rung for rung in ranked}


def named_rungs(names: Sequence[str]) -> tuple[Rung, ...]:
    """The rungs of these names in the ladder's order; all for none. `UnknownName` for a name that is none."""
    known = known_rungs()
    asked = {suggest(name, known, "rung").name for name in names}
    require(len(asked) == len(names), f"rungs {', '.join(names)}: name each once", RequestError)
    return tuple(rung for rung in known.values() if not asked or rung.name in asked)
