"""Explains a recipe: every effective setting with its value, the layer that set it, and its meaning."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from ..attacks import attacks
from ..core.docstrings import field_descriptions
from ..core.errors import RecipeError, require
from ..core.recipe import Recipe, load_recipe
from ..core.settings import LayeredValue, SettingLayer, build_settings, layered_values, merge_layers
from ..methods import methods
from ..training.regularisers import build_regularisers
from .command_options import EraseOptions, ExplainOptions
from .resolve import plan_job


@dataclass(frozen=True)
class EffectiveSetting:
    """One setting with the value that a job would use."""

    part: str
    """Part of the job: request, settings, training, regularisers or drawing.

    Settings that differ for concepts of a kind follow as "settings, style" if no concept is named.
    """
    name: str
    value: Any
    """The value; None if it is chosen later, when the model is known."""
    layer: SettingLayer
    meaning: str


@dataclass(frozen=True)
class RecipeExplanation:
    """A recipe with all its effective settings."""

    recipe: str
    source: str
    purpose: str
    """What the recipe is for, such as "method uce" or "attack p4d"."""
    family: str | None
    rows: tuple[EffectiveSetting, ...]


def explain(options: ExplainOptions) -> RecipeExplanation:
    """List every effective setting of a recipe. Bad input raises the same errors as in `erase`."""
    recipe, loaded = options.recipe, load_recipe(options.recipe)
    typed = {name: value for name, value in vars(options).items() if name != "recipe" and value not in (None, ())}
    if loaded.attack is not None:
        message = (
            f"recipe {recipe} is for the attack {loaded.attack}, which takes its settings as they are: leave out"
            f" {', '.join(typed)}"
        )
        require(not typed, message, RecipeError)
        return RecipeExplanation(
            recipe, loaded.source, f"attack {loaded.attack}", loaded.family, tuple(_of_attack(loaded))
        )
    planned = plan_job(EraseOptions(recipe=recipe, **typed))
    job, info = planned.job, methods[planned.job.method]
    settings: object = build_settings(info.settings, job.settings or {}, f"{job.method} setting")
    regularisers = build_regularisers(job.regularisers, info.mechanism, info.name)
    rows = [
        *_effective("request", job.ask, planned.request),
        *_effective("settings", settings, planned.settings),
        *(_of_kinds(loaded, info.settings) if job.ask.kind is None and not job.ask.targets else ()),
        *(_effective("training", job.options, planned.training) if info.mechanism == "trained" else ()),
        *(_effective("regularisers", regularisers, planned.regularisers) if info.mechanism == "trained" else ()),
        *_effective("drawing", job.spec, planned.drawing),
        *_effective("drawing", job.sizes, planned.drawing),
    ]
    return RecipeExplanation(recipe, loaded.source, f"method {job.method}", loaded.family, tuple(rows))


def _of_attack(loaded: Recipe) -> Iterator[EffectiveSetting]:
    info, given = attacks[loaded.attack or ""], merge_layers(("recipe", loaded.settings))
    return _effective("settings", build_settings(info.settings, layered_values(given), f"{info.name} setting"), given)


def _of_kinds(loaded: Recipe, settings: type) -> Iterator[EffectiveSetting]:
    """What the recipe sets for concepts of one kind."""
    known = field_descriptions(settings)
    for kind, own in loaded.kinds.items():
        for name, value in own.items():
            yield EffectiveSetting(f"settings, {kind}", name, value, "recipe", known.get(name, ""))


def _effective(part: str, built: Any, given: Mapping[str, LayeredValue]) -> Iterator[EffectiveSetting]:
    known = field_descriptions(type(built))
    for field in fields(built):
        layer: SettingLayer = given[field.name].layer if field.name in given else "default"
        yield EffectiveSetting(part, field.name, getattr(built, field.name), layer, known.get(field.name, ""))
