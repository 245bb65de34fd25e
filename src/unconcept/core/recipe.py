"""Recipes: TOML files that hold one setting of a method, from a paper or for `moji`."""

from dataclasses import dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any

from .errors import RecipeError, require
from .registry import suggest
from .request import Ask
from .settings import build, read_toml


@dataclass(frozen=True)
class Recipe:
    """One file. `settings` are checked by the method that they are for."""

    method: str
    source: str  # paper and where it was read, or how the setting was found
    family: str | None = None
    table_hash: str | None = None  # of the table of concepts a `moji` recipe was tuned on
    request: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def asked(self) -> Ask:
        """What is absent is chosen as without a recipe."""
        return build(Ask, self.request, "recipe key [request]")


def recipes() -> dict[str, Path]:
    """Packaged recipes by name."""
    folder = Path(str(resources.files("unconcept") / "recipes"))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def load_recipe(name: str) -> Recipe:
    """A packaged recipe by name, or a file by its path (ends in .toml)."""
    path = Path(name) if name.endswith(".toml") else suggest(name, recipes(), "recipe")
    data = read_toml(path)
    missing = [f.name for f in fields(Recipe) if f.name in ("method", "source") and f.name not in data]
    require(not missing, f"recipe {name}: {', '.join(missing)} missing; a recipe names its method and its source", RecipeError)
    recipe = build(Recipe, data, f"recipe {name}: key")
    recipe.asked  # noqa: B018  (checked here, so that a broken recipe is refused when it is read)
    return recipe
