"""`unconcept explain`: the effective settings of a recipe."""

import json
from dataclasses import asdict

from ..jobs.command_options import ExplainOptions
from .console import print_json, print_table, say
from .options import JsonOptions


def explain(options: ExplainOptions, shown: JsonOptions) -> None:
    """Print every effective setting of a recipe, the layer that set it, and its meaning."""
    from ..jobs.explain import explain as job

    found = job(options)
    if shown.as_json:
        print_json(asdict(found))
        return
    say(f"recipe {found.recipe}, for the {found.purpose}" + (f", family {found.family}" if found.family else ""))
    say(f"source: {found.source}")
    rows = [
        (row.part, row.name, json.dumps(row.value, ensure_ascii=False), row.layer, row.meaning) for row in found.rows
    ]
    print_table("settings", ("part", "name", "value", "layer", "meaning"), rows)
    for subject, note in found.notes.items():
        say(f"{subject}: {note}")
