"""How far a method is proven on a family of models."""

from functools import cache

from ..core.recipe import load_recipe, recipes
from ..methods import methods
from ..models.checkpoint.config import family_of_folder
from ..models.diffusion.few_step import few_step_record
from ..worlds import folder
from ..worlds.registry import worlds


def proof_of(method: str, family: str) -> str:
    """Where the method was tuned on pictures, is drawn with settings that nobody tuned, or was tested on toys alone.

    A recipe for an embedded model says in its source if it is untuned; without one a method draws under its defaults.
    """
    told = []
    for name, prefix in _worlds_of_families().get(family, {}).items():
        if methods[method].needs_few_steps and few_step_record(folder(name)) is None:
            continue
        recipe = f"{prefix}{method}"
        is_tuned = recipe in recipes() and "untuned" not in load_recipe(recipe).source
        told.append(f"{'drawn' if is_tuned else 'untuned'} on {name}")
    return ", ".join(told) or "algebra tested only"


@cache
def _worlds_of_families() -> dict[str, dict[str, str]]:
    """The embedded models of each family, with the prefix of their recipes."""
    found: dict[str, dict[str, str]] = {}
    for name in worlds:
        found.setdefault(family_of_folder(folder(name)).name, {})[name] = worlds[name].recipes
    return found
