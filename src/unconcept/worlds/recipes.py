"""Recipes that were tuned on an embedded model count for its present version only."""

from ..core.errors import RecipeError, require
from ..core.recipe import Recipe, load_recipe
from .registry import DEFAULT_MODEL, outdated_note


def current_recipe(name: str) -> Recipe:
    """Load a recipe by its name or path; `RecipeError` if it was tuned on another version of an embedded model."""
    recipe = load_recipe(name)
    tuned_on = recipe.world or (DEFAULT_MODEL if recipe.table_hash else "")
    outdated = outdated_note(tuned_on)
    require(not outdated, f"recipe {name} was tuned on {tuned_on}: {outdated}; tune it anew", RecipeError)
    return recipe
