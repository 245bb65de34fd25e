"""Every packaged recipe is for something that exists, with settings it takes."""

import pytest

from unconcept.attacks import attacks
from unconcept.core.recipe import load_recipe, recipes
from unconcept.core.settings import build_settings
from unconcept.methods import methods


@pytest.mark.parametrize("name", list(recipes()))
def test_settings_fit(name) -> None:
    recipe = load_recipe(name)
    info = methods[recipe.method] if recipe.method else attacks[recipe.attack]
    assert name.endswith(info.name) or name.startswith(f"{info.name}-")
    assert recipe.family in info.families
    assert build_settings(info.settings, recipe.settings) is not None


@pytest.mark.parametrize("name", [name for name in recipes() if name.startswith("moji-")])
def test_moji_recipes_train_as_usual(name) -> None:
    """Benches take a recipe's settings alone."""
    assert load_recipe(name).training == {}
