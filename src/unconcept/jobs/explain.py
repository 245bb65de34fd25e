"""Explains a recipe: every effective setting with its value, the layer that set it, and its meaning."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..attacks import attacks
from ..core.docstrings import field_descriptions
from ..core.errors import RecipeError, require
from ..core.recipe import Recipe
from ..core.settings import LayeredValue, SettingLayer, build_settings, layered_values, merge_layers
from ..erasing.edit_notes import method_notes
from ..methods import methods
from ..models import find_model
from ..models.checkpoint.config import family_of_folder
from ..models.families import families
from ..models.family import FamilySpec
from ..protection import protections
from ..training.regularisers import build_regularisers
from ..worlds.recipes import current_recipe
from ..worlds.registry import embedded_world, split_config
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
    notes: Mapping[str, str]
    """What an edit made with the recipe cannot reach in the model's family, by subject."""


def explain(options: ExplainOptions) -> RecipeExplanation:
    """List every effective setting of a recipe. Bad input raises the same errors as in `erase`."""
    recipe, loaded = options.recipe, current_recipe(options.recipe)
    typed = {name: value for name, value in vars(options).items() if name != "recipe" and value not in (None, ())}
    if loaded.method is None:
        message = (
            f"recipe {recipe} is for the {loaded.owner}, which takes its settings as they are: leave out"
            f" {', '.join(typed)}"
        )
        require(not typed, message, RecipeError)
        whole = tuple(_as_they_are(loaded))
        return RecipeExplanation(recipe, loaded.source, loaded.owner, loaded.family, whole, {})
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
    spec = _family_of(options.model, loaded)
    notes = method_notes(job.method, spec) if spec else {}
    return RecipeExplanation(recipe, loaded.source, f"method {job.method}", loaded.family, tuple(rows), notes)


def _family_of(model: str | None, loaded: Recipe) -> FamilySpec | None:
    """The family of a named model whose files are here, else that of the recipe."""
    if model is not None and (embedded_world(model) or Path(split_config(model)[0]).expanduser().exists()):
        return family_of_folder(find_model(model))
    return families[loaded.family] if loaded.family else None


def _as_they_are(loaded: Recipe) -> Iterator[EffectiveSetting]:
    """The settings of an attack or a protection."""
    given = merge_layers(("recipe", loaded.settings))
    info = attacks[loaded.attack] if loaded.attack else protections[loaded.protection or ""]
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
