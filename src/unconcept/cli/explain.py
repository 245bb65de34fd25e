"""`unconcept explain`: what a recipe comes to."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from . import options
from .console import exit_codes, print_json, print_table, quiet_libraries


def explain(
    recipe: Annotated[str, typer.Argument(help="Recipe by name, or a .toml file.")],
    concepts: Annotated[
        list[str] | None,
        typer.Argument(help="What would be erased, in place of the recipe's targets.", show_default=False),
    ] = None,
    model: Annotated[str | None, typer.Option(help="As for `erase`.  [default: moji]", show_default=False)] = None,
    set_: options.AssignmentsFlag = None,
    regulariser: options.RegularisersFlag = None,
    anchor: options.AnchorsFlag = None,
    retain: options.RetainedFlag = None,
    kind: options.KindFlag = None,
    batch_size: Annotated[int | None, typer.Option(min=1, max=1024, help="As for `erase`.", show_default=False)] = None,
    seed: Annotated[int | None, typer.Option(help="As for `erase`.", show_default=False)] = None,
    limit: options.LimitFlag = None,
    as_json: options.JsonFlag = False,
) -> None:
    """Print every effective setting of a recipe, where it is from, and what it means."""
    with exit_codes():
        quiet_libraries()
        from ..core.settings import parse_assignment
        from ..jobs.explain import explain as explained

        typed = {
            "model": model,
            "anchors": anchor,
            "retain": retain,
            "kind": kind,
            "batch_size": batch_size,
            "seed": seed,
            "limit": limit,
        }
        told = {name: value for name, value in typed.items() if value is not None}
        given = {"assignments": set_ or [], "regularisers": regulariser or []}
        flags = {"assignments": "--set", "regularisers": "--regulariser"}
        assigned = {part: dict(parse_assignment(text, flags[part]) for text in texts) for part, texts in given.items()}
        found = explained(recipe, {"concepts": concepts or [], **assigned, **told})
        if as_json:
            print_json(asdict(found))
            return
        print(f"recipe {found.recipe}, for the {found.purpose}" + (f", family {found.family}" if found.family else ""))
        print(f"source: {found.source}")
        rows = [
            (row.part, row.name, json.dumps(row.value, ensure_ascii=False), row.layer, row.meaning)
            for row in found.rows
        ]
        print_table("settings", ("part", "name", "value", "layer", "meaning"), rows)
