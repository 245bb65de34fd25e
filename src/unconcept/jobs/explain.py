"""What a recipe comes to: every effective setting with its value, who gave it, and what it means."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..attacks import attacks
from ..core.errors import RecipeError, require
from ..core.field_docs import meanings
from ..core.recipe import Recipe, load_recipe
from ..core.setting_layers import Given, Layer, overlaid, values_of
from ..core.settings import build
from ..methods import methods
from ..training.regularisers import regularisers_of
from .resolve import plan


@dataclass(frozen=True)
class Effective:
    """One setting as it would be used."""

    part: str  # of the job: request, settings, training, regularisers or drawing
    name: str
    value: Any  # None: left open, chosen when the model is known
    layer: Layer
    meaning: str


@dataclass(frozen=True)
class Explained:
    """A recipe and all that follows from it."""

    recipe: str
    source: str
    purpose: str  # "method uce", "attack p4d"
    family: str | None
    rows: tuple[Effective, ...]


def explain(recipe: str, given: Mapping[str, Any]) -> Explained:
    """`given` is what was typed besides, as `plan` takes it. Bad input raises what `erase` would raise for it."""
    loaded = load_recipe(recipe)
    if loaded.attack is not None:
        typed = [name for name, value in given.items() if value]
        message = f"recipe {recipe} is for the attack {loaded.attack}, which takes its settings as they are: leave out {', '.join(typed)}"
        require(not typed, message, RecipeError)
        return Explained(recipe, loaded.source, f"attack {loaded.attack}", loaded.family, tuple(_of_attack(loaded)))
    planned = plan(recipe=recipe, out=Path(recipe), **given)
    job, info = planned.job, methods[planned.job.method]
    settings: object = build(info.settings, job.settings or {}, f"{job.method} setting")
    regularisers = regularisers_of(job.regularisers, info.way, info.name)
    rows = [
        *_effective("request", job.ask, planned.request),
        *_effective("settings", settings, planned.settings),
        *(_effective("training", job.options, planned.training) if info.way == "trained" else ()),
        *(_effective("regularisers", regularisers, planned.regularisers) if info.way == "trained" else ()),
        *_effective("drawing", job.spec, planned.drawing),
        *_effective("drawing", job.sizes, planned.drawing),
    ]
    return Explained(recipe, loaded.source, f"method {job.method}", loaded.family, tuple(rows))


def _of_attack(loaded: Recipe) -> Iterator[Effective]:
    info, given = attacks[loaded.attack or ""], overlaid(("recipe", loaded.settings))
    return _effective("settings", build(info.settings, values_of(given), f"{info.name} setting"), given)


def _effective(part: str, built: Any, given: Mapping[str, Given]) -> Iterator[Effective]:
    known = meanings(type(built))
    for field in fields(built):
        layer: Layer = given[field.name].layer if field.name in given else "default"
        yield Effective(part, field.name, getattr(built, field.name), layer, known.get(field.name, ""))
