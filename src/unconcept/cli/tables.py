"""`unconcept methods`, `attacks`, `protections`, `scorers`, `suites`, `specs`, `recipes`: print the registries."""

from collections.abc import Sequence

from .console import print_json, print_table
from .options import JsonOptions


def methods(shown: JsonOptions) -> None:
    """List the methods with their papers and settings, and the model families that each supports."""
    from ..core.docstrings import description_of
    from ..core.settings import default_settings
    from ..jobs.proofs import proof_of
    from ..methods import methods as known
    from ..models.families import FAMILIES

    told, rows, support = [], [], []
    for info in map(known.__getitem__, known):
        settings, summary = default_settings(info.settings), description_of(info.settings)
        reasons = {family: info.refusal(family) for family in FAMILIES}
        refused = {family: reason for family, reason in reasons.items() if reason}
        proven = {family: proof_of(info.name, family) for family, reason in reasons.items() if not reason}
        told.append(
            {
                "name": info.name,
                "paper": info.paper,
                "families": info.families,
                "summary": summary,
                "settings": settings,
                "refused": refused,
                "proven": proven,
            }
        )
        rows.append((info.name, info.paper, summary, _text(settings)))
        words = [proven.get(family, "refused") for family in FAMILIES]
        support.append((info.name, *words, next(iter(refused.values()), "")))
    if shown.as_json:
        print_json(told)
        return
    print_table("methods", ("name", "paper", "summary", "settings"), rows)
    print_table("support", ("name", *FAMILIES, "refused because"), support)


def attacks(shown: JsonOptions) -> None:
    """List the attacks by the access they need: from words that anyone can type to the weights."""
    from ..attacks import ACCESS_LEVELS
    from ..attacks import attacks as known
    from ..core.settings import default_settings

    infos = sorted(map(known.__getitem__, known), key=lambda info: ACCESS_LEVELS.index(info.rung))
    rows = [(i.name, i.rung, i.paper, ", ".join(i.families), i.summary, default_settings(i.settings)) for i in infos]
    _show("attacks", ("name", "rung", "paper", "families", "summary", "settings"), rows, shown.as_json)


def protections(shown: JsonOptions) -> None:
    """List the protections of pictures, and the controls beside them."""
    from ..core.settings import default_settings
    from ..protection import protections as known

    infos = sorted(map(known.__getitem__, known), key=lambda info: (info.role == "control", info.name))
    rows = [(i.name, i.role, i.paper, i.summary, default_settings(i.settings)) for i in infos]
    _show("protections", ("name", "role", "paper", "summary", "settings"), rows, shown.as_json)


def scorers(shown: JsonOptions) -> None:
    """List the scorers, their inputs, and the package extra that some of them need."""
    from ..scorers import scorers as known

    rows = [(i.name, i.reads, i.extra or "-", i.summary) for i in map(known.__getitem__, known)]
    _show("scorers", ("name", "reads", "extra", "summary"), rows, shown.as_json)


def suites(shown: JsonOptions) -> None:
    """List the suites: what each measures, and which attacks it runs."""
    from ..evaluation.suites.registry import suites as known

    rows = [(s.name, s.summary, ", ".join(s.attacks) or "-") for s in map(known.__getitem__, known)]
    _show("suites", ("name", "summary", "attacks"), rows, shown.as_json)


def specs(shown: JsonOptions) -> None:
    """List sampler settings of papers, for `--spec`."""
    from ..evaluation.sampling import DRAW_SPECS

    rows = [
        (name, spec.steps, spec.guidance_scale, spec.sampler or "the model's own") for name, spec in DRAW_SPECS.items()
    ]
    _show("specs", ("name", "steps", "guidance", "sampler"), rows, shown.as_json)


def recipes(shown: JsonOptions) -> None:
    """List the packaged recipes: settings of a method or an attack, and where they are from."""
    from ..core.recipe import recipes as known
    from ..worlds.recipes import current_recipe

    rows = []
    for name in known():
        recipe = current_recipe(name)
        rows.append((name, recipe.owner.partition(" ")[2], recipe.family or "any", recipe.source))
    _show("recipes", ("name", "for", "family", "source"), rows, shown.as_json)


def _show(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], as_json: bool) -> None:
    if as_json:
        print_json([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        print_table(title, columns, [list(map(_text, row)) for row in rows])


def _text(cell: object) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in cell.items()) if isinstance(cell, dict) else str(cell)
