"""Join what was typed with the recipe and the defaults: default < recipe < --set < flag."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.concept import KINDS
from ..core.errors import RecipeError, RequestError, require
from ..core.recipe import Recipe, load_recipe, recipes
from ..core.request import Ask
from ..core.setting_layers import Given, overlaid, values_of
from ..core.settings import build
from ..evaluation.sampling import Spec, spec_for
from ..models.loading import MOJI
from ..prompts.checks import Sizes
from ..training.options import Options
from .erase import Job

DEFAULT_METHOD = "uce"


@dataclass(frozen=True)
class Planned:
    """A job, the reason for each default that was taken, and who gave what was given; what is in none of the three is a default."""

    job: Job
    reasons: Mapping[str, str]
    request: Mapping[str, Given]
    settings: Mapping[str, Given]
    training: Mapping[str, Given]
    regularisers: Mapping[str, Given]
    drawing: Mapping[str, Given]


def plan(
    *,
    concepts: Sequence[str],
    out: Path,
    anchors: Sequence[str] | None = None,
    retain: Sequence[str] | None = None,
    kind: str | None = None,
    model: str = MOJI,
    method: str | None = None,
    recipe: str | None = None,
    assignments: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    regularisers: Mapping[str, Any] | None = None,
    batch_size: int = Spec.batch_size,
    limit: int | None = None,
    seed: int = Sizes.seed,
    **rest: Any,
) -> Planned:
    """What `unconcept erase` does with these words, and `unconcept explain` shows."""
    reasons: dict[str, str] = {}
    if recipe is None and model == MOJI and f"moji-{method or DEFAULT_METHOD}" in recipes():
        recipe = f"moji-{method or DEFAULT_METHOD}"
        reasons["settings"] = f"recipe {recipe}: {load_recipe(recipe).source}"
    loaded = load_recipe(recipe) if recipe else Recipe("no recipe", method or DEFAULT_METHOD)
    name = loaded.method or ""
    require(bool(name), f"recipe {recipe} is for the attack {loaded.attack}: `unconcept erase` wants one for a method", RecipeError)
    if recipe is None:
        reasons["settings"] = f"the method's own defaults ({name})"
    if method is None:
        reasons["method"] = f"{name}: " + ("as the recipe says" if recipe else "closed form, seconds on any machine")
    message = f"recipe {recipe} is for {name}, not for {method}: leave out one of the two"
    require(method in (None, name), message, RecipeError)
    if model == MOJI:
        reasons["model"] = "moji, the embedded model"
    require(kind is None or kind in KINDS, f"kind {kind!r}: allowed are {', '.join(KINDS)}", RequestError)
    typed = {"targets": concepts or None, "anchors": anchors, "retain": retain, "kind": kind}
    request = overlaid(("recipe", loaded.request), ("flag", typed))
    settings = overlaid(("recipe", loaded.settings), ("--set", assignments or {}))
    runs = overlaid(("recipe", loaded.training), ("flag", training or {}))
    regularising = overlaid(("recipe", loaded.regularisers), ("flag", regularisers or {}))
    spec, sizes = spec_for(model, batch_size=batch_size), Sizes(seed=seed).limited(limit)
    changed = {**_changed(spec, spec_for(model)), **_changed(sizes, Sizes())}
    ask, options = build(Ask, values_of(request)), build(Options, values_of(runs), "training option")
    held = values_of(regularising)
    job = Job(ask, out, name, values_of(settings), model, held, recipe=recipe, spec=spec, sizes=sizes, options=options, **rest)
    return Planned(job, reasons, request, settings, runs, regularising, overlaid(("flag", changed)))


def _changed(one: Spec | Sizes, default: Spec | Sizes) -> dict[str, Any]:
    return {name: value for name, value in vars(one).items() if value != vars(default)[name]}
