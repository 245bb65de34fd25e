"""Combines options, recipe and defaults into a job: default < recipe < --set < flag."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..core.concept import CONCEPT_KINDS
from ..core.errors import RecipeError, RequestError, require
from ..core.recipe import Recipe
from ..core.request import RequestSpec
from ..core.settings import LayeredValue, build_settings, layered_values, merge_layers
from ..evaluation.sampling import DrawSpec
from ..evaluation.worlds import world_of
from ..models.loading import recognised_title
from ..prompts.checks import GroupSizes
from ..training.options import TrainingOptions
from ..worlds.recipes import current_recipe
from .command_options import EraseOptions
from .erase_job import Job
from .options import TrainingChoices, texts

_DEFAULT_METHOD = "uce"
_FOLDER_LENGTH = 80  # of the default output folder's name; fifty concepts would make more than a file system takes


@dataclass(frozen=True)
class JobPlan:
    """A job, the reasons for its defaults, and the layer of each given value; values without a layer are defaults."""

    job: Job
    reasons: Mapping[str, str]
    request: Mapping[str, LayeredValue]
    settings: Mapping[str, LayeredValue]
    training: Mapping[str, LayeredValue]
    regularisers: Mapping[str, LayeredValue]
    drawing: Mapping[str, LayeredValue]


def plan_job(options: EraseOptions, for_any_kind: bool = False) -> JobPlan:
    """Make the job that `unconcept erase` runs and `unconcept explain` shows.

    `for_any_kind` leaves out what the recipe sets for concepts of one kind: a ledger has one policy for all.
    """
    loaded, recipe, reasons = _method_of(options)
    request = merge_layers(("recipe", loaded.request), ("flag", _request_of(options)))
    ask = build_settings(RequestSpec, layered_values(request))
    kind = world_of(options.model).kind(ask) if loaded.kinds and not for_any_kind else None
    settings = merge_layers(("recipe", loaded.settings_for(kind)), ("--set", options.settings or {}))
    trainings = merge_layers(("recipe", loaded.training), ("flag", _training_of(options)))
    regularisers = merge_layers(("recipe", loaded.regularisers), ("flag", options.regularisers or {}))
    world = world_of(options.model)
    spec = world.draw_spec(None, batch_size=options.batch_size)
    sizes = GroupSizes(seed=options.seed).with_limit(options.limit)
    changed = {**_changed(spec, world.draw_spec(None)), **_changed(sizes, GroupSizes())}
    made = {
        "ask": ask,
        "out": options.out or _default_folder(options.names),
        "method": loaded.method or "",
        "settings": layered_values(settings),
        "regularisers": layered_values(regularisers),
        "sizes": sizes,
        "spec": spec,
        "options": build_settings(TrainingOptions, layered_values(trainings), "training option"),
        "recipe": Path(recipe).name if recipe else None,
    }
    job = Job(**{**values_for(Job, options), **made})
    return JobPlan(job, reasons, request, settings, trainings, regularisers, merge_layers(("flag", changed)))


def _method_of(options: EraseOptions) -> tuple[Recipe, str | None, dict[str, str]]:
    """Choose the recipe, or a method's defaults in its place; also returns the recipe's name and the reasons."""
    method, recipe, reasons = options.method, options.recipe, dict[str, str]()
    world = world_of(options.model)
    if recipe is None:
        recipe = world.recipe(method or _DEFAULT_METHOD)
        if recipe is not None:
            reasons["settings"] = f"recipe {recipe}: {current_recipe(recipe).source}"
    loaded = current_recipe(recipe) if recipe else Recipe("no recipe", method or _DEFAULT_METHOD)
    name = loaded.method or ""
    require(
        bool(name),
        f"recipe {recipe} is for the {loaded.owner}: `unconcept erase` needs a recipe for a method",
        RecipeError,
    )
    if recipe is None:
        reasons["settings"] = f"the method's own defaults ({name})"
    if method is None:
        reasons["method"] = f"{name}: " + ("from the recipe" if recipe else "closed form, seconds on any machine")
    message = f"recipe {recipe} is for {name}, not for {method}: leave out one of the two"
    require(method in (None, name), message, RecipeError)
    if world.title is not None:
        reasons["model"] = world.title
    elif (title := recognised_title(str(options.model))) is not None:
        reasons["model"] = f"{title}, recognised by its tensors: configs and vocabulary are the packaged ones"
    return loaded, recipe, reasons


def _request_of(options: EraseOptions) -> dict[str, Any]:
    """The request's parts from options, None where not given."""
    kind, anchors = options.kind, options.anchors
    require(
        kind is None or kind in CONCEPT_KINDS, f"kind {kind!r}: allowed are {', '.join(CONCEPT_KINDS)}", RequestError
    )
    return {
        "targets": options.names or None,
        "anchors": None if anchors is None else texts(anchors),
        "retain": options.retained,
        "kind": kind,
    }


def _training_of(options: TrainingChoices) -> dict[str, Any]:
    return values_for(TrainingChoices, options)


def _default_folder(names: tuple[str, ...]) -> Path:
    return Path("out") / (re.sub(r"\W+", "-", "-".join(names)).strip("-")[:_FOLDER_LENGTH] or "recipe")


def _changed(one: DrawSpec | GroupSizes, default: DrawSpec | GroupSizes) -> dict[str, Any]:
    return {name: value for name, value in vars(one).items() if value != vars(default)[name]}


def values_for(job: type, options: Any) -> dict[str, Any]:
    """The values of those options that a job has a field for, by its name: a new option is passed on by itself."""
    given = {field.name for field in fields(options)}
    return {field.name: getattr(options, field.name) for field in fields(job) if field.name in given}
