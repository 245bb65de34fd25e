"""Join what was typed with the recipe and the defaults: default < recipe < --set < flag."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.concept import CONCEPT_KINDS
from ..core.errors import RecipeError, RequestError, require
from ..core.recipe import Recipe, load_recipe
from ..core.request import RequestSpec
from ..core.setting_layers import LayeredValue, layered_values, merge_layers
from ..core.settings import build_settings
from ..evaluation.sampling import DrawSpec
from ..evaluation.worlds import world_of
from ..prompts.checks import GroupSizes
from ..training.options import TrainingOptions
from ..worlds.registry import DEFAULT_MODEL
from .erase import Job

_DEFAULT_METHOD = "uce"


@dataclass(frozen=True)
class JobPlan:
    """A job, the reason for each default that was taken, and who gave what was given; what is in none of the three is a
    default.
    """

    job: Job
    reasons: Mapping[str, str]
    request: Mapping[str, LayeredValue]
    settings: Mapping[str, LayeredValue]
    training: Mapping[str, LayeredValue]
    regularisers: Mapping[str, LayeredValue]
    drawing: Mapping[str, LayeredValue]


def plan_job(
    *,
    concepts: Sequence[str],
    out: Path,
    anchors: Sequence[str] | None = None,
    retain: Sequence[str] | None = None,
    kind: str | None = None,
    model: str = DEFAULT_MODEL,
    method: str | None = None,
    recipe: str | None = None,
    assignments: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    regularisers: Mapping[str, Any] | None = None,
    batch_size: int = DrawSpec.batch_size,
    limit: int | None = None,
    seed: int = GroupSizes.seed,
    **rest: Any,
) -> JobPlan:
    """What `unconcept erase` does with these words, and `unconcept explain` shows."""
    reasons: dict[str, str] = {}
    world = world_of(model)
    if recipe is None:
        recipe = world.recipe(method or _DEFAULT_METHOD)
        if recipe is not None:
            reasons["settings"] = f"recipe {recipe}: {load_recipe(recipe).source}"
    loaded = load_recipe(recipe) if recipe else Recipe("no recipe", method or _DEFAULT_METHOD)
    name = loaded.method or ""
    require(
        bool(name),
        f"recipe {recipe} is for the attack {loaded.attack}: `unconcept erase` wants one for a method",
        RecipeError,
    )
    if recipe is None:
        reasons["settings"] = f"the method's own defaults ({name})"
    if method is None:
        reasons["method"] = f"{name}: " + ("as the recipe says" if recipe else "closed form, seconds on any machine")
    message = f"recipe {recipe} is for {name}, not for {method}: leave out one of the two"
    require(method in (None, name), message, RecipeError)
    if world.title is not None:
        reasons["model"] = world.title
    require(
        kind is None or kind in CONCEPT_KINDS, f"kind {kind!r}: allowed are {', '.join(CONCEPT_KINDS)}", RequestError
    )
    typed = {"targets": concepts or None, "anchors": anchors, "retain": retain, "kind": kind}
    request = merge_layers(("recipe", loaded.request), ("flag", typed))
    settings = merge_layers(("recipe", loaded.settings), ("--set", assignments or {}))
    runs = merge_layers(("recipe", loaded.training), ("flag", training or {}))
    regularising = merge_layers(("recipe", loaded.regularisers), ("flag", regularisers or {}))
    spec, sizes = world.draw_spec(None, batch_size=batch_size), GroupSizes(seed=seed).with_limit(limit)
    changed = {**_changed(spec, world.draw_spec(None)), **_changed(sizes, GroupSizes())}
    ask, options = (
        build_settings(RequestSpec, layered_values(request)),
        build_settings(TrainingOptions, layered_values(runs), "training option"),
    )
    held = layered_values(regularising)
    job = Job(
        ask,
        out,
        name,
        layered_values(settings),
        model,
        held,
        recipe=recipe,
        spec=spec,
        sizes=sizes,
        options=options,
        **rest,
    )
    return JobPlan(job, reasons, request, settings, runs, regularising, merge_layers(("flag", changed)))


def _changed(one: DrawSpec | GroupSizes, default: DrawSpec | GroupSizes) -> dict[str, Any]:
    return {name: value for name, value in vars(one).items() if value != vars(default)[name]}
