"""Recipes: TOML files that hold one setting of a method, an attack or a protection, from a paper or for `moji`."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

from .concept import ConceptKind
from .errors import RecipeError, require
from .output_folder import is_inside
from .registry import suggest
from .request import RequestSpec
from .settings import build_settings, read_toml

FILE_SUFFIXES = (".txt", ".csv", ".tsv", ".json", ".jsonl")  # a setting with one of these endings is a path
_OWNERS = {"method", "attack", "protection"}  # keys of which a recipe has one
_FOLDER_SETTINGS = ("clip", "clip_2", "images")  # settings that are the path of a folder


@dataclass(frozen=True)
class Recipe:
    """One recipe file, for a method, an attack or a protection, which checks its `settings` itself."""

    source: str  # paper and page, or how the setting was found
    method: str | None = None
    attack: str | None = None
    protection: str | None = None
    family: str | None = None
    world: str | None = None  # the embedded model it was tuned on, NAME@VERSION
    table_hash: str | None = None  # of that model's table of concepts
    request: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    kinds: dict[ConceptKind, dict[str, Any]] = field(default_factory=dict)
    """Settings that differ for concepts of a kind, such as `[kinds.style]`."""
    training: dict[str, Any] = field(default_factory=dict)
    """How a trained method runs: mixed precision, Random Erasing..."""
    regularisers: dict[str, Any] = field(default_factory=dict)  # of the method's training

    @property
    def owner(self) -> str:
        """What the recipe is for, such as "method uce" or "attack p4d"; "" for a method's defaults without a name."""
        named = {"method": self.method, "attack": self.attack, "protection": self.protection}
        return next((f"{kind} {name}" for kind, name in named.items() if name), "")

    @property
    def asked(self) -> RequestSpec:
        """The request part of the recipe; missing keys keep the defaults that hold without a recipe."""
        return build_settings(RequestSpec, self.request, "recipe key [request]")

    def settings_for(self, kind: str | None) -> dict[str, Any]:
        """The settings for concepts of a kind; with None, those that hold for any."""
        return settings_for_kind(self.settings, self.kinds, kind)


def settings_for_kind(
    settings: Mapping[str, Any], kinds: Mapping[ConceptKind, Mapping[str, Any]], kind: str | None
) -> dict[str, Any]:
    """Return settings with those of one kind in place of theirs."""
    return {**settings, **next((own for name, own in kinds.items() if name == kind), {})}


def recipes() -> dict[str, Path]:
    """Packaged recipes by name."""
    folder = Path(str(resources.files("unconcept") / "recipes"))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def load_recipe(name: str) -> Recipe:
    """Load a packaged recipe by its name, or a recipe file by its path (which ends in .toml)."""
    path = Path(name) if name.endswith(".toml") else suggest(name, recipes(), "recipe")
    data = read_toml(path)
    require("source" in data, f"recipe {name}: key source is missing; state where the settings come from", RecipeError)
    require(
        len(_OWNERS & data.keys()) == 1,
        f"recipe {name}: a recipe names a method, an attack or a protection; give exactly one of the three keys",
        RecipeError,
    )
    beyond = ", ".join(part for part in ("regularisers", "kinds") if part in data and "method" not in data)
    require(not beyond, f"recipe {name}: only a method has {beyond}; remove them", RecipeError)
    recipe = build_settings(Recipe, data, f"recipe {name}: key")
    recipe.asked  # noqa: B018  (checked here, so that a broken recipe fails when it is loaded)
    return replace(
        recipe,
        settings=_all_beside(path, recipe.settings),
        kinds={kind: _all_beside(path, own) for kind, own in recipe.kinds.items()},
        regularisers=_all_beside(path, recipe.regularisers),
    )


def _all_beside(recipe: Path, values: Mapping[str, object]) -> dict[str, object]:
    return {name: _beside(recipe, name, value) for name, value in values.items()}


def _beside(recipe: Path, name: str, value: object) -> object:
    """Resolve a path setting against the recipe's folder, which it must not leave: recipes come from strangers."""
    if not _is_path(name, value):
        return value
    assert isinstance(value, str)
    message = (
        f"recipe {recipe}: {name} = {value!r} leaves the recipe's folder: put the file beside it, or name it with --set"
    )
    require(is_inside(recipe.parent, value), message, RecipeError)
    return str(recipe.parent / value)


def without_folders(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Reduce settings that are paths to the last part: what is published names no folder of a machine."""
    return {name: _without_folder(name, value) for name, value in settings.items()}


def _without_folder(name: str, value: object) -> object:
    if isinstance(value, Mapping):
        return without_folders(value)
    return Path(str(value)).name if _is_path(name, value) else value


def _is_path(name: str, value: object) -> bool:
    """Whether a setting is the path of a file or a folder."""
    return (
        isinstance(value, str) and bool(value) and (name in _FOLDER_SETTINGS or value.lower().endswith(FILE_SUFFIXES))
    )
