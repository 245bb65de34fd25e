"""Join what was typed with the recipe and the defaults: default < recipe < --set < flag."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..core.concept import KINDS
from ..core.errors import RecipeError, RequestError, require
from ..core.recipe import Recipe, load_recipe, recipes
from ..core.request import Ask
from ..core.settings import build
from ..models.open import MOJI
from ..prompts.checks import Sizes
from .erasure import Job
from .generate import spec_for

DEFAULT_METHOD = "uce"


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
    batch_size: int = 24,
    limit: int | None = None,
    seed: int = 0,
    **rest: Any,
) -> tuple[Job, dict[str, str]]:
    """The job, and the reason for each default that was taken."""
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
    asked = loaded.asked
    kind = kind or asked.kind
    require(kind is None or kind in KINDS, f"kind {kind!r}: allowed are {', '.join(KINDS)}", RequestError)
    ask = build(
        Ask,
        {
            "targets": tuple(concepts) or asked.targets,
            "anchors": asked.anchors if anchors is None else tuple(anchors),
            "retain": asked.retain if retain is None else tuple(retain),
            "kind": kind,
        },
    )
    settings = {**loaded.settings, **(assignments or {})}
    spec, sizes = spec_for(model, batch_size=batch_size), Sizes(seed=seed).limited(limit)
    job = Job(ask, out, name, settings, model, recipe=recipe, spec=spec, sizes=sizes, **rest)
    return job, reasons
